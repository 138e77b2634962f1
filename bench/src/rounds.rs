//! Rounds of measurements: in each, every task asks all of its contestants in turn.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::busy::Busy;
use crate::contestant::Contestant;
use crate::protocol::Figures;
use crate::tasks::{Row, Task};

/// What one contestant gave for a row, a value a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Key of the row.
    pub row: String,
    /// Key of the contestant.
    pub contestant: String,
    /// One a round; none where it failed.
    pub values: Vec<Option<f64>>,
    /// Operations and bytes of one measurement, if it told.
    pub work: Figures,
}

/// What a contestant could not do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub contestant: String,
    pub row: String,
    pub reason: String,
}

/// Everything that was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub rows: Vec<Row>,
    pub series: Vec<Series>,
    pub failures: Vec<Failure>,
}

impl Measured {
    /// The values of a row.
    pub fn of(&self, row: &str, contestant: &str) -> Option<&Series> {
        self.series.iter().find(|s| s.row == row && s.contestant == contestant)
    }

    fn series_of(&mut self, row: &Row, contestant: &str) -> &mut Series {
        let at = self.series.iter().position(|s| s.row == row.key && s.contestant == contestant);
        let at = at.unwrap_or_else(|| {
            self.series.push(Series {
                row: row.key.clone(),
                contestant: contestant.to_owned(),
                values: Vec::new(),
                work: Figures::new(),
            });
            self.series.len() - 1
        });
        &mut self.series[at]
    }

    fn record(&mut self, task: &Task, contestant: &str, outcome: &Result<Figures, String>) {
        for row in &task.rows {
            let value = outcome.as_ref().ok().and_then(|figures| figures.get(&row.figure)).copied();
            let series = self.series_of(row, contestant);
            series.values.push(value);
            if let Ok(figures) = outcome {
                let work = figures.iter().filter(|(name, _)| ["operations", "bytes"].contains(&name.as_str()));
                series.work.extend(work.map(|(name, value)| (name.clone(), *value)));
            }
            if let Err(reason) = outcome {
                let known = self.failures.iter().any(|f| f.contestant == contestant && f.row == row.key);
                if !known {
                    let (contestant, row, reason) = (contestant.to_owned(), row.key.clone(), reason.clone());
                    self.failures.push(Failure { contestant, row, reason });
                }
            }
        }
    }
}

/// Measures one task after the other. The round before a task's first warms caches up and does not count; who fails in it is
/// not asked again for that task.
pub fn run(tasks: &[Task], contestants: &mut [Contestant], rounds: usize, tell: &mut dyn FnMut(&str)) -> Measured {
    let mut measured = Measured { rows: tasks.iter().flat_map(|t| t.rows.clone()).collect(), ..Measured::default() };
    let index: HashMap<String, usize> = contestants.iter().enumerate().map(|(i, c)| (c.key.clone(), i)).collect();
    for (at, task) in tasks.iter().enumerate() {
        let title = &task.rows[0].title;
        let mut able = Vec::new();
        for key in &task.contestants {
            let Some(&i) = index.get(key) else { continue };
            let outcome = ask(task, &mut contestants[i]);
            tell(&format!("{title}: warming up: {}", contestants[i].label));
            match outcome {
                Ok(_) => able.push(i),
                Err(_) => measured.record(task, key, &outcome),
            }
        }
        for round in 0..rounds {
            for turn in 0..able.len() {
                // Another one is the first in every round.
                let contestant = &mut contestants[able[(turn + round) % able.len()]];
                let outcome = ask(task, contestant);
                measured.record(task, &contestant.key, &outcome);
                tell(&format!("{title}: round {} of {rounds}: {}", round + 1, contestant.label));
            }
        }
        // Their memory is needed by others.
        let next = tasks.get(at + 1).map_or(&[][..], |t| &t.contestants);
        contestants.iter_mut().filter(|c| !next.contains(&c.key)).for_each(Contestant::stop);
    }
    measured
}

/// Long enough for a peer's threads to stop spinning after their work: ggml's poll for a few tenths of a second.
const PAUSE: Duration = Duration::from_millis(700);

fn ask(task: &Task, contestant: &mut Contestant) -> Result<Figures, String> {
    if task.fresh {
        contestant.stop();
    }
    std::thread::sleep(PAUSE);
    let busy = Busy::start(task.busy);
    let outcome = contestant.measure(&task.request);
    drop(busy);
    if task.fresh {
        contestant.stop();
    }
    outcome
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::protocol::Request;
    use crate::tasks::Unit;

    fn shell(key: &str, script: &str) -> Contestant {
        Contestant::new(key, key, "sh".into(), vec!["-c".into(), script.into()])
    }

    fn task(contestants: &[&str], fresh: bool) -> Task {
        let row = Row { key: "r".into(), title: "R".into(), figure: "seconds".into(), unit: Unit::Seconds };
        let contestants = contestants.iter().map(|c| (*c).to_owned()).collect();
        Task { request: Request::Questions, rows: vec![row], contestants, fresh, busy: 1 }
    }

    /// Counts its own requests; the third is an error.
    const COUNTING: &str = r#"echo '{"hello":{}}'; n=0; while read line; do n=$((n+1));
        if [ $n = 3 ]; then echo '{"error":"tired"}'; else echo '{"figures":{"seconds":'$n',"bytes":8}}'; fi; done"#;

    #[test]
    fn values_stand_by_their_round_and_failures_are_told() {
        let mut all = [shell("a", COUNTING), shell("b", r#"echo '{"missing":"not here"}'"#)];
        let mut told = Vec::new();
        let measured = run(&[task(&["a", "b"], false)], &mut all, 3, &mut |line| told.push(line.to_owned()));
        let a = measured.of("r", "a").unwrap();
        assert_eq!(a.values, [Some(2.0), None, Some(4.0)]);
        assert_eq!(a.work["bytes"], 8.0);
        let reasons: Vec<(&str, &str)> =
            measured.failures.iter().map(|f| (f.contestant.as_str(), f.reason.as_str())).collect();
        assert_eq!(reasons, [("b", "not here"), ("a", "tired")]);
        assert_eq!(told.len(), 2 + 3, "the missing one is asked once");
    }

    #[test]
    fn a_fresh_task_starts_anew_every_time() {
        let measured = run(&[task(&["a"], true)], &mut [shell("a", COUNTING)], 4, &mut |_| ());
        assert_eq!(measured.of("r", "a").unwrap().values, [Some(1.0); 4]);
    }
}
