//! Domains and static routes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use portico_routing::backend::{Backend, BackendHost};
use portico_routing::decide::Rules;
use portico_routing::host::{Apex, Domains};
use portico_routing::table::Entry;

use super::{different, not_myself};
use crate::file::DomainsFile;
use crate::reader::{Field, Item, Map, MapEntry, Mistake, Reader};
use crate::values::{ApexWord, Name, page_host};

/// `[domains]` and `[routes]`.
pub(super) fn check_rules(
    reader: &mut Reader<'_>,
    domains: Field<DomainsFile>,
    routes: Field<Map<Name, Backend>>,
    own: &[SocketAddr],
) -> Option<Rules> {
    let domains = domains.value?;
    check_legacy(reader, &domains);
    check_apex(reader, &domains);
    check_rename(reader, &domains);
    let reserved: HashSet<Box<str>> = domains
        .reserved
        .value?
        .into_values()
        .map(|name| name.0)
        .collect();
    let rename: HashMap<Box<str>, Box<str>> = domains
        .rename
        .value?
        .entries
        .into_iter()
        .filter_map(|entry| Some((entry.key.0, entry.value?.0)))
        .collect();

    let mut table = HashMap::new();
    for entry in routes.value.into_iter().flat_map(|map| map.entries) {
        let name = &entry.key.0;
        if reserved.contains(name) || rename.contains_key(name) {
            let mistake = Mistake::new(format!(
                "`{name}` is reserved or renamed in [domains]: the route is never used"
            ));
            reader.error(
                &entry.key_at,
                mistake.allowed("either the route or the line in [domains]"),
            );
        }
        let Some(backend) = entry.value else {
            continue;
        };
        if let BackendHost::Ip(ip) = backend.host {
            not_myself(
                reader,
                SocketAddr::new(ip, backend.port),
                own,
                &entry.value_at,
            );
        }
        let url = backend.to_string();
        let built = Entry::build([(b".*".as_slice(), url.as_bytes())], false, &|_| Ok(()));
        // The URL has been parsed already; should the table refuse it all the same, its
        // reason is the mistake.
        for bad in &built.bad {
            reader.error(
                &entry.value_at,
                Mistake::new(format!("not usable as a route: {}", bad.reason)),
            );
        }
        table.insert(entry.key.0, Arc::new(built));
    }
    let apex = match domains.apex.value? {
        ApexWord::Ingress => Apex::Ingress,
        ApexWord::Redirect(url) => Apex::Redirect(url),
    };
    let legacy = domains
        .legacy
        .value?
        .into_values()
        .map(|domain| domain.0)
        .collect();
    let domains = Domains {
        canonical: domains.canonical.value?.0,
        legacy,
        apex,
        reserved,
        rename,
    };
    Some(Rules {
        domains,
        routes: table,
    })
}

fn check_legacy(reader: &mut Reader<'_>, domains: &DomainsFile) {
    let legacy = domains
        .legacy
        .value
        .as_ref()
        .map(|list| list.items.as_slice())
        .unwrap_or_default();
    let names: Vec<Item<&str>> = legacy
        .iter()
        .map(|item| Item {
            value: &*item.value.0,
            at: item.at.clone(),
        })
        .collect();
    different(reader, &names, |_| true, "this domain");
    let Some(canonical) = domains.canonical.value.as_ref().map(|domain| &*domain.0) else {
        return;
    };
    for item in &names {
        let under = item
            .value
            .strip_suffix(canonical)
            .is_some_and(|rest| rest.ends_with('.'));
        if item.value == canonical {
            let mistake = Mistake::new("the canonical domain cannot be a legacy domain too");
            reader.error(
                &item.at,
                mistake.allowed("a domain that tools share, or nothing"),
            );
        } else if under {
            let mistake = Mistake::new(format!(
                "stands under the canonical domain {canonical}, where hosts are tools"
            ));
            reader.error(
                &item.at,
                mistake.allowed("a domain outside of the canonical one (T253816)"),
            );
        }
    }
}

fn check_apex(reader: &mut Reader<'_>, domains: &DomainsFile) {
    if let Some(ApexWord::Redirect(url)) = &domains.apex.value
        && let Some(canonical) = &domains.canonical.value
        && page_host(url) == *canonical.0
    {
        let mistake = Mistake::new("the bare domain would be redirected to itself, for ever");
        reader.error(
            &domains.apex.at,
            mistake.allowed("\"ingress\", or a URL of another host"),
        );
    }
}

fn check_rename(reader: &mut Reader<'_>, domains: &DomainsFile) {
    let entries = domains
        .rename
        .value
        .as_ref()
        .map(|map| map.entries.as_slice())
        .unwrap_or_default();
    let reserved: HashSet<&str> = domains
        .reserved
        .value
        .iter()
        .flat_map(|l| &l.items)
        .map(|i| &*i.value.0)
        .collect();
    for entry in entries {
        if reserved.contains(&*entry.key.0) {
            let mistake = Mistake::new("is reserved and renamed").allowed("one of the two");
            reader.error(&entry.key_at, mistake);
        }
        let Some(to) = &entry.value else {
            continue;
        };
        if entry.key == *to {
            let mistake =
                Mistake::new("is renamed to itself: browsers would be redirected for ever");
            reader.error(
                &entry.value_at,
                mistake.allowed("another name, or leave the line out"),
            );
        } else if entries.iter().any(|other| other.key == *to) {
            let message = format!(
                "`{}` is renamed itself: browsers would be redirected twice or for ever",
                to.0
            );
            let mistake = Mistake::new(message).allowed("a name that is not renamed");
            let end = end_of_renames(entries, to).map(|end| format!("{:?}", end.0));
            reader.error(&entry.value_at, mistake.suggest(end));
        }
    }
    let items: Vec<_> = domains
        .reserved
        .value
        .iter()
        .flat_map(|list| list.items.iter().cloned())
        .collect();
    different(reader, &items, |_| true, "this label");
}

/// The name that is not renamed, at the end of the chain; `None` for a circle.
fn end_of_renames<'a>(entries: &'a [MapEntry<Name, Name>], from: &'a Name) -> Option<&'a Name> {
    let mut name = from;
    // A chain is no longer than its links.
    for _ in entries {
        match entries.iter().find(|entry| entry.key == *name) {
            Some(next) => name = next.value.as_ref()?,
            None => return Some(name),
        }
    }
    None
}
