//! Who uses which pool: `[ingress]` and `[[tcp]]`.
//!
//! Not done here: the pools themselves (`pools`), what else there is to a listener (`tcp`).

use std::collections::BTreeMap;

use crate::config::{Pool, Share};
use crate::diagnostic::nearest;
use crate::file::{File, IngressFile};
use crate::reader::{Mistake, Place, Reader};

/// Names of pools that are used: they exist, and those that exist are used.
pub(super) fn check_references(reader: &mut Reader<'_>, file: &File) {
    if let Some(ingress) = &file.ingress.value {
        check_split(reader, ingress);
    }
    let Some(pools) = &file.pools.value else {
        return;
    };
    let names: Vec<&str> = pools.entries.iter().map(|entry| &*entry.key.0).collect();
    let uses = uses(file);
    for (name, at) in uses.iter().filter(|(name, _)| !names.contains(name)) {
        let others = match names.is_empty() {
            true => String::new(),
            false => format!("{}, or ", names.join(", ")),
        };
        let mistake = Mistake::new(format!("there is no pool `{name}`"))
            .allowed(format!(
                "{others}write a table [pools.{name}] with its nodes"
            ))
            .suggest(nearest(name, names.iter().copied()));
        reader.error(at, mistake);
    }
    let ingress = file.ingress.value.as_ref();
    let written = ingress.is_some_and(|ingress| ingress.pool.written || ingress.split.written);
    let used =
        |name: &str| (name == "ingress" && !written) || uses.iter().any(|(used, _)| *used == name);
    // Beside a name that does not exist it is most likely the one that was meant.
    let all_exist = uses.iter().all(|(name, _)| names.contains(name));
    for entry in pools
        .entries
        .iter()
        .filter(|entry| all_exist && !used(&entry.key.0))
    {
        let mistake = Mistake::new("nothing uses this pool")
            .allowed("name it in [ingress] or in a [[tcp]], or remove it");
        reader.warning(&entry.key_at, mistake);
    }
    if let Some(registry) = file
        .registry
        .value
        .as_ref()
        .filter(|_| !written && !names.contains(&"ingress"))
    {
        let mistake = Mistake::new(
            "there is a registry but no ingress: tools that are not registered get a 404",
        )
        .allowed("write [pools.ingress] with its nodes, if that is not what you want");
        reader.warning(&registry.at, mistake);
    }
}

/// The names of pools that the file uses, and where.
fn uses(file: &File) -> Vec<(&str, &Place)> {
    let mut uses: Vec<(&str, &Place)> = Vec::new();
    if let Some(ingress) = &file.ingress.value {
        uses.extend(
            ingress
                .pool
                .value
                .iter()
                .map(|name| (&*name.0, &ingress.pool.at)),
        );
        let split = ingress.split.value.iter().flat_map(|split| &split.entries);
        uses.extend(split.map(|entry| (&*entry.key.0, &entry.key_at)));
    }
    let tcp = file.tcp.value.iter().flat_map(|list| &list.items);
    for tcp in tcp {
        let pool = tcp.value.pool.value.iter();
        uses.extend(pool.map(|name| (&*name.0, &tcp.value.pool.at)));
        let names = tcp.value.server_names.value.iter();
        let names = names.flat_map(|names| &names.entries);
        uses.extend(names.filter_map(|entry| Some((&*entry.value.as_ref()?.0, &entry.value_at))));
    }
    uses
}

fn check_split(reader: &mut Reader<'_>, ingress: &IngressFile) {
    let Some(split) = &ingress.split.value else {
        return;
    };
    if ingress.pool.written {
        let mistake =
            Mistake::new("there is a pool and a split").allowed("one of `pool` and `split`");
        reader.error(&ingress.split.at, mistake);
    }
    let shares: Option<Vec<u64>> = split
        .entries
        .iter()
        .map(|entry| Some(entry.value?.0))
        .collect();
    if let Some(sum) = shares.map(|shares| shares.iter().sum::<u64>())
        && sum != 100
    {
        let mistake = Mistake::new(format!("the shares add up to {sum}"));
        let allowed = "percentages that add up to 100";
        reader.error(&ingress.split.at, mistake.allowed(allowed));
    }
}

/// The pools that `[ingress]` means, written or not. Names were checked with the other references.
pub(super) fn ingress_shares(
    ingress: IngressFile,
    pools: Option<&BTreeMap<Box<str>, Pool>>,
) -> Option<Vec<Share>> {
    let whole = |pool| {
        let percent = 100;
        vec![Share { pool, percent }]
    };
    match (ingress.pool.value, ingress.split.value) {
        (Some(name), _) => Some(whole(name.0)),
        (None, Some(split)) => split
            .entries
            .into_iter()
            .map(|entry| {
                Some(Share {
                    pool: entry.key.0,
                    percent: entry.value?.get()?,
                })
            })
            .collect(),
        (None, None) => Some(match pools?.contains_key("ingress") {
            true => whole("ingress".into()),
            false => Vec::new(),
        }),
    }
}
