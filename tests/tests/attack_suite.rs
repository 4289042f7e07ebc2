//! Every vector from every kind of pod, held to what is declared of it: without a guard, or audited, what is to be closed
//! is an attack; enforced, nobody gets a byte. The simulator has the last word.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_tests::attack::Staged;
use guard_tests::attack::suite::{Attacker, Fate, Kind, Row, Scene, fate, table};
use guard_tests::{Agent, Outcome, Report, Vector, wait_until};

const ENFORCE: &str = "\
version: 1
enforce: all
default: { imds: deny }
rules:
  - name: trusted
    match: { serviceAccounts: [shop/trusted] }
    imds: allow
";

const AUDIT: &str = "\
version: 1
enforce: none
unidentified: deny
default: { imds: deny }
";

const READY: Duration = Duration::from_secs(20);

/// How long the simulator may take to see a packet that nobody waits for an answer to.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// So many processes of one pod attack at the same time: most of them wait for what doesn't come.
const AT_ONCE: usize = 12;

#[test]
fn without_a_guard_every_vector_reaches_imds() -> Result<()> {
    let mut scene = Scene::on_links()?;
    scene.inherit()?;
    let mut rows = attacks_succeed(&scene, &vectors_on_links())?;
    // Nobody else may do it at all.
    let report = scene.attack_privileged(&scene.attackers()[0], Vector::Setns)?;
    ensure!(report.outcome.got_bytes(), "no attack: {report:?}");
    rows.extend(attacks_succeed(&scene, &[Vector::Undo])?);
    rows.extend(attacks_succeed(&Scene::on_bridge()?, &[Vector::ArpSpoofed])?);
    told(rows).map(drop)
}

#[test]
fn audited_every_vector_reaches_imds() -> Result<()> {
    let mut scene = Scene::on_links()?;
    let mut agent = Agent::start(scene.node(), AUDIT)?;
    agent.wait_ready(READY)?;
    scene.inherit()?;
    told(attacks_succeed(&scene, &vectors_on_links())?)?;
    agent.stop()
}

#[test]
fn enforced_nobody_gets_a_byte_by_any_vector() -> Result<()> {
    let mut scene = Scene::on_links()?;
    let vectors = vectors_on_links();
    let staged = stage_all(&scene, &vectors)?;
    scene.node().simulator().forget();
    let mut agent = Agent::start(scene.node(), ENFORCE)?;
    agent.wait_ready(READY)?;
    scene.inherit()?;
    agent.set_pods(scene.node())?;

    let mut rows = at_the_same_time(staged, |(kind, attack)| Ok(vec![judged(kind, &attack.proceed()?)]))?;
    rows.extend(attacks_fail(&scene, &vectors)?);
    let seen = scene.node().simulator().seen();
    every_lock_has_counted(&agent)?;
    // Last, for it opens what it may.
    rows.extend(attacks_fail(&scene, &[Vector::Undo])?);
    agent.stop()?;

    let neighbours = Scene::on_bridge()?;
    let mut agent = Agent::start(neighbours.node(), ENFORCE)?;
    agent.wait_ready(READY)?;
    rows.extend(attacks_fail(&neighbours, &[Vector::ArpSpoofed])?);
    let seen_on_bridge = neighbours.node().simulator().seen();
    agent.stop()?;

    let rows = told(rows)?;
    if let Some(path) = std::env::var_os("IMDS_GUARD_ATTACK_TABLE") {
        table::append(&rows, Path::new(&path))?;
    }
    for seen in [seen, seen_on_bridge] {
        ensure!(seen.bytes_sent() == 0 && seen.requests.is_empty(), "IMDS saw {seen:?}");
    }
    Ok(())
}

#[test]
fn the_document_has_the_table() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let document = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let written = table::written(&document).context("docs/security.md lacks the table's two lines")?;
    let expected = table::expected();
    if written != expected.trim_matches('\n') {
        bail!(
            "docs/security.md is not what the suite declares. Between its lines belongs:\n{}\n\n{expected}\n{}",
            table::BEGIN,
            table::END
        );
    }
    Ok(())
}

/// What is closed is counted where it is closed.
fn every_lock_has_counted(agent: &Agent) -> Result<()> {
    let metrics = agent.metrics()?;
    let denied = [("verdict", "deny"), ("mode", "enforce")];
    let dropped = |place| [("place", place), ("action", "drop")];
    for (name, labels) in [
        ("imds_guard_attempts_total", denied),
        ("imds_guard_egress_packets_total", denied),
        ("imds_guard_backstop_packets_total", dropped("forward")),
        ("imds_guard_backstop_packets_total", dropped("bypass")),
    ] {
        ensure!(metrics.count(name, &labels) > 0, "nothing is counted as {name} {labels:?}");
    }
    Ok(())
}

/// All but those that need neighbours, and the one that opens what it may.
fn vectors_on_links() -> Vec<Vector> {
    let apart = [Vector::ArpSpoofed, Vector::Undo];
    Vector::all().iter().copied().filter(|vector| !apart.contains(vector)).collect()
}

/// Those that can't be told apart, or succeed, when several pods make them at the same time.
fn is_alone(vector: Vector) -> bool {
    is_blind(vector) || is_exclusive(vector)
}

/// Those that spoil each other's chances: one place among the neighbours, and one queue of a device.
fn is_exclusive(vector: Vector) -> bool {
    matches!(vector, Vector::ArpSpoofed | Vector::Xdp | Vector::XdpCompat | Vector::PreopenedXdp)
}

/// Whether other pods make them at the same place.
fn is_shared(vector: Vector, kind: Kind) -> bool {
    vector == Vector::ArpSpoofed || (is_exclusive(vector) && kind.host_network)
}

/// Those that speak in the name of the allowed pod, which may get the answer: the simulator says whether there was one.
fn is_blind(vector: Vector) -> bool {
    matches!(vector, Vector::LinkSpoofed | Vector::Vxlan | Vector::Ipip | Vector::ArpSpoofed)
}

/// A row of the table, and what is wrong with it.
type Judged = (Row, Option<String>);

/// Prints the table, and fails with all that is wrong.
fn told(judged: Vec<Judged>) -> Result<Vec<Row>> {
    let (rows, wrong): (Vec<Row>, Vec<Option<String>>) = judged.into_iter().unzip();
    table::print(&rows);
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(rows)
}

/// Performs every vector where nothing hinders it. What is declared to be closed by the guard must be an attack.
fn attacks_succeed(scene: &Scene, vectors: &[Vector]) -> Result<Vec<Judged>> {
    let (alone, together): (Vec<Vector>, Vec<Vector>) = vectors.iter().partition(|vector| is_alone(**vector));
    let mut rows = at_the_same_time(scene.attackers(), |attacker| {
        together.iter().map(|vector| succeeds(scene, attacker, *vector)).collect()
    })?;
    for attacker in scene.attackers() {
        for vector in &alone {
            rows.push(succeeds(scene, attacker, *vector)?);
        }
    }
    Ok(rows)
}

fn succeeds(scene: &Scene, attacker: &Attacker, vector: Vector) -> Result<Judged> {
    let fate = fate(vector, attacker.kind);
    if let Some(why) = impossible(scene, attacker.kind, vector) {
        return Ok((row(attacker.kind, vector, why), None));
    }
    let answers = || -> Result<u64> {
        Ok(scene.node().simulator().seen().of(scene.trusted_address()?.into()).bytes_sent)
    };
    let before = answers()?;
    let mut report = scene.attack(attacker, vector)?;
    // On a machine that is busy an answer may come late. One that comes is enough.
    if matches!((fate, &report.outcome), (Fate::Closed(_), Outcome::Timeout)) && !is_blind(vector) {
        report = scene.attack(attacker, vector)?;
    }
    let Report { outcome, .. } = report;
    let for_another = matches!(outcome, Outcome::Timeout)
        && is_blind(vector)
        && wait_until(SEEN_WITHIN, "an answer", || answers().is_ok_and(|sent| sent > before)).is_ok();
    let got_bytes = outcome.got_bytes() || for_another;
    let wrong = match fate {
        _ if matches!(outcome, Outcome::Unsupported(_)) => None,
        Fate::Closed(_) if !got_bytes => Some("no attack"),
        Fate::Needs(_) if !is_refused(&outcome) => Some("it needs nothing"),
        Fate::Harmless(_) if got_bytes => Some("not harmless"),
        _ => None,
    };
    let told = wrong.map(|wrong| format!("{wrong}: {vector:?} from {}: {outcome:?}", attacker.kind));
    let result = if for_another { "answer to another".to_owned() } else { short(&outcome) };
    Ok((row(attacker.kind, vector, result), told))
}

/// Why there is nothing to perform.
fn impossible(scene: &Scene, kind: Kind, vector: Vector) -> Option<String> {
    match fate(vector, kind) {
        Fate::None(_) => Some("–".to_owned()),
        _ => scene.lacks(vector).map(|what| format!("skipped: {what}")),
    }
}

/// What fits into a table.
fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Unsupported(_) => "skipped: unsupported".to_owned(),
        outcome => outcome.to_string(),
    }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Errno(name) if name == "EPERM" || name == "EACCES")
}

/// Starts every attack that pauses before there is a guard.
fn stage_all(scene: &Scene, vectors: &[Vector]) -> Result<Vec<(Kind, Staged)>> {
    let mut staged = Vec::new();
    for attacker in scene.attackers() {
        for vector in vectors.iter().filter(|vector| vector.pauses()) {
            if hindrance(scene, attacker.kind, *vector).is_none() {
                staged.push((attacker.kind, scene.stage(attacker, *vector)?));
            }
        }
    }
    Ok(staged)
}

/// Performs every vector that doesn't pause. What got bytes and shouldn't have is told beside its row.
fn attacks_fail(scene: &Scene, vectors: &[Vector]) -> Result<Vec<Judged>> {
    let moving: Vec<Vector> = vectors.iter().copied().filter(|vector| !vector.pauses()).collect();
    let mut rows = at_the_same_time(scene.attackers(), |attacker| {
        let (possible, others): (Vec<Vector>, Vec<Vector>) =
            moving.iter().partition(|vector| hindrance(scene, attacker.kind, **vector).is_none());
        let mut rows = Vec::new();
        for vector in others {
            let why = hindrance(scene, attacker.kind, vector).unwrap_or_default();
            rows.push((row(attacker.kind, vector, why), None));
        }
        let (one_by_one, together): (Vec<Vector>, Vec<Vector>) =
            possible.into_iter().partition(|vector| is_exclusive(*vector));
        for some in together.chunks(AT_ONCE) {
            let staged: Vec<Staged> =
                some.iter().map(|vector| scene.stage(attacker, *vector)).collect::<Result<_>>()?;
            for attack in staged {
                rows.push(judged(attacker.kind, &attack.proceed()?));
            }
        }
        for vector in one_by_one.into_iter().filter(|vector| !is_shared(*vector, attacker.kind)) {
            rows.push(judged(attacker.kind, &scene.attack(attacker, vector)?));
        }
        Ok(rows)
    })?;
    for attacker in scene.attackers() {
        for vector in moving.iter().copied().filter(|vector| is_shared(*vector, attacker.kind)) {
            if hindrance(scene, attacker.kind, vector).is_none() {
                rows.push(judged(attacker.kind, &scene.attack(attacker, vector)?));
            }
        }
    }
    Ok(rows)
}

/// Why a vector is not performed against the guard: there is no such thing, or the guard doesn't promise to close it.
fn hindrance(scene: &Scene, kind: Kind, vector: Vector) -> Option<String> {
    match fate(vector, kind) {
        Fate::OutOfScope(_) => Some("out of scope".to_owned()),
        Fate::Gap(_) => Some("open".to_owned()),
        _ => impossible(scene, kind, vector),
    }
}

/// The row of an attack on the guard, and what is wrong with it.
fn judged(kind: Kind, Report { vector, outcome, .. }: &Report) -> Judged {
    let fate = fate(*vector, kind);
    let wrong = match (fate, outcome) {
        (_, Outcome::Unsupported(_)) => None,
        (_, Outcome::Broken(_)) => Some("the attack failed of itself"),
        (_, outcome) if outcome.got_bytes() => Some("a byte got through"),
        (Fate::Needs(_), outcome) if !is_refused(outcome) => Some("it needs nothing"),
        _ => None,
    };
    let result = match (fate, outcome) {
        (Fate::Closed(lock), outcome) if !outcome.got_bytes() && outcome.is_genuine() => {
            format!("0 bytes ({lock})")
        }
        (_, outcome) => short(outcome),
    };
    let told = wrong.map(|wrong| format!("{wrong}: {vector:?} from {kind}: {outcome:?}"));
    (row(kind, *vector, result), told)
}

fn row(kind: Kind, vector: Vector, result: String) -> Row {
    let kernel = nix::sys::utsname::uname()
        .map(|system| system.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Row { kernel, vector, pod: kind.account(), result }
}

/// Does the same with all of them, each on a thread of its own.
fn at_the_same_time<S: Send, T: Send>(
    all: impl IntoIterator<Item = S>,
    work: impl Fn(S) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    let done: Vec<Result<Vec<T>>> = thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    Ok(done.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
