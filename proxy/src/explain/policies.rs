//! What may refuse the request, policy by policy: also those that the request never reaches, since
//! the next one may.

use serde::Serialize;

use super::{Case, Seen, text_of};
use crate::forward::Destination;
use crate::http1::Framing;
use crate::request::{self, Plan};
use crate::response::failure::Failure;
use crate::upstream::fallback::FALLBACK;

/// One policy.
#[derive(Debug, Clone, Serialize)]
pub struct Policy {
    /// One word.
    pub policy: &'static str,
    /// What it says.
    pub outcome: Outcome,
    /// Why.
    pub text: String,
}

/// What a policy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The request passes.
    Passes,
    /// It is refused.
    Refuses,
    /// It would be, but for `refuse.dry_run`.
    DryRun,
    /// The policy is off.
    Off,
    /// Only the portico that serves knows.
    NotKnown,
}

pub(super) fn of(case: &Case<'_>, plan: &Plan) -> Vec<Policy> {
    let mut policies = vec![user_agent(case), body_size(case), via_loop(case)];
    policies.extend(in_flight(case, plan));
    policies
}

pub(super) fn user_agent(case: &Case<'_>) -> Policy {
    let config = &case.snapshot.config;
    let agent = case.head.user_agent.map(|span| text_of(span.of(case.buf)));
    let (outcome, text) = match agent.filter(|agent| !agent.is_empty()) {
        Some(agent) => (Outcome::Passes, format!("The User-Agent is {agent}.")),
        None if !request::lacks_user_agent(config, case.head) => (
            Outcome::Off,
            "There is no User-Agent, and refuse.empty_user_agent is off.".to_owned(),
        ),
        None if config.refuse.dry_run => (
            Outcome::DryRun,
            "There is no User-Agent: refused, but for refuse.dry_run.".to_owned(),
        ),
        None => (
            Outcome::Refuses,
            "There is no User-Agent, and refuse.empty_user_agent is on.".to_owned(),
        ),
    };
    Policy {
        policy: "user_agent",
        outcome,
        text,
    }
}

pub(super) fn body_size(case: &Case<'_>) -> Policy {
    let config = &case.snapshot.config;
    let limit = config.limits.body;
    let text = match case.head.framing {
        Framing::None => "There is no body.".to_owned(),
        Framing::Length(length) => {
            format!("The body has {length} bytes; limits.body is {limit}.")
        }
        Framing::Chunked | Framing::UntilClose => {
            format!("The body's length is not said; it is cut off after limits.body, {limit}.")
        }
    };
    Policy {
        policy: "body_size",
        outcome: match request::is_too_large(config, case.head) {
            true => Outcome::Refuses,
            false => Outcome::Passes,
        },
        text,
    }
}

pub(super) fn via_loop(case: &Case<'_>) -> Policy {
    let config = &case.snapshot.config;
    let (outcome, text) = match &config.headers.via {
        None => (
            Outcome::Off,
            "headers.via is empty: loops are not noticed.".to_owned(),
        ),
        Some(name) if request::came_through_here(config, case.head, case.buf) => (
            Outcome::Refuses,
            format!("A Via field names {name}: the request came through here before."),
        ),
        Some(name) => (
            Outcome::Passes,
            format!("No Via field names {name}: it did not come through here before."),
        ),
    };
    Policy {
        policy: "loop",
        outcome,
        text,
    }
}

/// The cap on requests in flight, for what is counted: tools, and the fallback.
pub(super) fn in_flight(case: &Case<'_>, plan: &Plan) -> Option<Policy> {
    let is_full = match plan {
        Plan::Fail(Failure::ToolBusy) => true,
        Plan::Fail(Failure::NotFound | Failure::NoIngress) => case.snapshot.fallback.is_some(),
        Plan::Fail(_) | Plan::Answer(_) | Plan::Forward(_) => false,
    };
    let for_fallback = match plan {
        Plan::Forward(destination) => matches!(destination, Destination::Fallback(_)),
        Plan::Fail(failure) => is_full && *failure != Failure::ToolBusy,
        Plan::Answer(_) => false,
    };
    let (counted, shown) = match case.tool() {
        _ if for_fallback => (FALLBACK, "the fallback"),
        Some(tool) => (tool, tool),
        None => return None,
    };
    let limit = case.snapshot.config.limits.in_flight_per_tool;
    let (outcome, text) = match case.seen {
        Seen::Running => {
            let now = case.process.tools.in_flight(counted);
            let outcome = match is_full {
                true => Outcome::Refuses,
                false => Outcome::Passes,
            };
            let text = format!(
                "{now} requests of {shown} are in flight; limits.in_flight_per_tool is {limit}."
            );
            (outcome, text)
        }
        Seen::Offline => (
            Outcome::NotKnown,
            format!(
                "How many requests of {shown} are in flight is not known: ask the running portico with --admin."
            ),
        ),
    };
    Some(Policy {
        policy: "in_flight",
        outcome,
        text,
    })
}
