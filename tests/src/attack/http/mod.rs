//! The path attacks: HTTP as no honest client writes it, to get a denied path past a gate that lets the region through.
//!
//! A [`Case`] is bytes and when to send them. It says nothing of gates: what reached IMDS is the simulator's word, and
//! the [`HttpReport`] tells what came back. The cases that *must* work, because clients write HTTP like that, say what
//! must come back.
//!
//! ```text
//! spelling  one denied path, spelled in every way        framing  where one request ends and the next begins
//! request   methods, forms, versions, header lines       pace     how the bytes come, and how many
//! works     what a filter must let through               siege    all at once, from one thread
//! ```

mod case;
mod framing;
mod pace;
mod place;
mod report;
mod request;
mod siege;
mod spelling;
mod start;
mod works;

pub use case::{Case, Expected, Part, Then};
pub use place::Family;
pub use report::{Answer, HttpReport};
pub use siege::besiege;

use crate::simulator::NODE_ROLE;

/// Every case. Their names differ.
pub fn cases() -> Vec<Case> {
    [spelling::cases(), request::cases(), framing::cases(), pace::cases(), works::cases()].concat()
}

/// What a filter that allows the region alone must deny, below the version.
fn denied() -> [(&'static str, String); 8] {
    [
        ("role", "meta-data/iam/security-credentials/".to_owned()),
        ("credentials", format!("meta-data/iam/security-credentials/{NODE_ROLE}")),
        (
            "identity-credentials",
            "meta-data/identity-credentials/ec2/security-credentials/ec2-instance".to_owned(),
        ),
        ("user-data", "user-data".to_owned()),
        ("iam-info", "meta-data/iam/info".to_owned()),
        ("pkcs7", "dynamic/instance-identity/pkcs7".to_owned()),
        ("signature", "dynamic/instance-identity/signature".to_owned()),
        ("rsa2048", "dynamic/instance-identity/rsa2048".to_owned()),
    ]
}

/// The path that is denied where one will do.
const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
/// A path that is allowed, and what stands there.
const REGION: &str = "/latest/meta-data/placement/region";
const REGION_NAME: &str = "eu-west-1";

/// A plain request.
fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::simulator::{Endpoint, Key, Service, Simulator, Versions};

    fn on_loopback() -> Simulator {
        let address = (IpAddr::from(Ipv4Addr::LOCALHOST), 0).into();
        let endpoint = Endpoint { service: Service::Imds, address };
        Simulator::start(None, &[endpoint], Versions::V1AndV2).expect("loopback is there")
    }

    #[test]
    fn there_are_hundreds_and_each_has_a_name_of_its_own() {
        let cases = cases();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        assert!(cases.len() >= 400, "{} cases", cases.len());
        assert!(cases.iter().filter(|case| case.works()).count() >= 20);
    }

    /// Nobody in between: most cases ask for a secret indeed, and many get it even from a strict server.
    #[test]
    fn the_attacks_are_real() {
        let simulator = on_loopback();
        let (attacks, works): (Vec<Case>, Vec<Case>) = cases().into_iter().partition(|case| !case.works());
        let mut reports = Vec::new();
        besiege(attacks, simulator.endpoints()[0].address, |report| reports.push(report)).expect("a runtime");
        let seen = simulator.seen();
        let reaching: BTreeSet<_> = seen.secrets_reached().map(|line| line.peer.port()).collect();
        let reached = reports.iter().filter(|report| reaching.contains(&report.port)).count();
        let parsed = seen.requests.iter().filter(|request| request.key.is_secret()).count();
        let leaked = reports.iter().filter(|report| report.leaked).count();
        println!(
            "{} attacks: {reached} reach a secret, {parsed} requests parsed for one, {leaked} answered with one",
            reports.len()
        );
        assert!(reached >= 300 && parsed >= 200 && leaked >= 100, "{reached}, {parsed}, {leaked}");

        // Another one: the first may still be reading what the last case left behind.
        let simulator = on_loopback();
        besiege(works, simulator.endpoints()[0].address, |report| reports.push(report)).expect("a runtime");
        let seen = simulator.seen();
        assert_eq!(seen.secrets_reached().count(), 0, "a case that must work asks for a secret");
        assert!(seen.requests.iter().all(|request| matches!(request.key, Key::Region | Key::Token)));
    }

    #[test]
    fn what_must_work_works_where_no_spelling_is_odd() {
        let simulator = on_loopback();
        let mut plain = cases();
        // The simulator is as strict as IMDS: it resolves no dots.
        plain.retain(|case| case.works() && !case.name.starts_with("works/spelling/"));
        let count = plain.len();
        assert!(count >= 12, "{count} cases");
        let mut judged = 0;
        let each = |report: HttpReport| {
            let case = plain.iter().find(|case| case.name == report.name).expect("one of them");
            case.check(&report).unwrap_or_else(|error| panic!("{error:#}"));
            judged += 1;
        };
        besiege(plain.clone(), simulator.endpoints()[0].address, each).expect("a runtime");
        assert_eq!(judged, count);
    }
}
