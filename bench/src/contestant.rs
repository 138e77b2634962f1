//! One program under test: how to start its process, and what it said.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::memory;
use crate::protocol::{Figures, Reply, Request};

/// Something to measure.
pub struct Contestant {
    /// Short name, unique, without spaces.
    pub key: String,
    /// Name for the table.
    pub label: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    process: Option<Process>,
    /// Where what it prints to stderr goes; nowhere if none.
    pub log: Option<PathBuf>,
    /// Versions and settings, once it has run.
    pub about: BTreeMap<String, String>,
    /// Why it cannot be measured, in whole or in part.
    pub missing: Option<String>,
    /// Most memory that one of its processes had, bytes.
    pub peak_resident: Option<u64>,
}

struct Process {
    child: Child,
    requests: ChildStdin,
    replies: BufReader<ChildStdout>,
}

impl Process {
    fn say(&mut self, request: &Request) -> Result<Reply, String> {
        let line = serde_json::to_string(request).map_err(|e| e.to_string())?;
        // When the process is gone, reading finds it out and says so.
        let _ = writeln!(self.requests, "{line}");
        self.hear()
    }

    fn hear(&mut self) -> Result<Reply, String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).map_err(|e| e.to_string())?;
        if line.is_empty() {
            let status = self.child.wait().map_err(|e| e.to_string())?;
            return Err(format!("it ended ({status})"));
        }
        serde_json::from_str(&line).map_err(|_| format!("it said '{}'", line.trim_end()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of it is needed any more; it may be in the middle of something long.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Contestant {
    /// `program arguments…` speaks the protocol.
    pub fn new(key: &str, label: &str, program: PathBuf, arguments: Vec<OsString>) -> Contestant {
        Contestant {
            key: key.to_owned(),
            label: label.to_owned(),
            program,
            arguments,
            process: None,
            log: None,
            about: BTreeMap::new(),
            missing: None,
            peak_resident: None,
        }
    }

    /// One measurement, in a running process or, if there is none, a new one.
    ///
    /// # Errors
    /// Why there is none. If it could not be started, or ended, it is `missing` from then on.
    pub fn measure(&mut self, request: &Request) -> Result<Figures, String> {
        if let Some(reason) = &self.missing {
            return Err(reason.clone());
        }
        let outcome = self.running().and_then(|process| process.say(request));
        if let Some(process) = &self.process {
            self.peak_resident = self.peak_resident.max(memory::peak_resident(Some(process.child.id())));
        }
        match outcome {
            Ok(Reply::Figures(figures)) => Ok(figures),
            Ok(Reply::Error(reason)) => Err(reason),
            Ok(Reply::Missing(reason)) | Err(reason) => {
                self.stop();
                self.missing = Some(reason.clone());
                Err(reason)
            }
            Ok(Reply::Hello(_)) => Err("it says hello twice".to_owned()),
        }
    }

    fn running(&mut self) -> Result<&mut Process, String> {
        let slot = &mut self.process;
        if let Some(process) = slot {
            return Ok(process);
        }
        let open = |path| File::options().append(true).create(true).open(path);
        let log = self.log.as_ref().and_then(|path| open(path).ok()).map_or_else(Stdio::null, Stdio::from);
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("'{}' cannot be started: {e}", self.program.display()))?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("its pipes are gone".to_owned());
        };
        let mut process = Process { child, requests, replies: BufReader::new(replies) };
        match process.hear()? {
            Reply::Hello(about) => self.about = about,
            Reply::Missing(reason) | Reply::Error(reason) => return Err(reason),
            Reply::Figures(_) => return Err("it does not say hello".to_owned()),
        }
        Ok(slot.insert(process))
    }

    /// Ends its process; the next measurement starts a new one.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Contestant {
        Contestant::new("x", "X", "sh".into(), vec!["-c".into(), script.into()])
    }

    const HELLO: &str = r#"echo '{"hello":{"version":"1"}}'; "#;

    #[test]
    fn a_process_is_started_once_and_again_after_a_stop() {
        let mut c = shell(&format!(r#"{HELLO} while read line; do echo '{{"figures":{{"seconds":'$$'}}}}'; done"#));
        let pid = |c: &mut Contestant| c.measure(&Request::Questions).unwrap()["seconds"];
        let first = pid(&mut c);
        assert_eq!(first, pid(&mut c));
        assert_eq!(c.about["version"], "1");
        c.stop();
        assert_ne!(first, pid(&mut c));
    }

    #[test]
    fn reasons_are_kept() {
        let mut missing = shell(r#"echo '{"missing":"no module"}'"#);
        assert_eq!(missing.measure(&Request::Peaks).unwrap_err(), "no module");
        assert_eq!(missing.missing.as_deref(), Some("no module"));
        let mut ended = shell(&format!("{HELLO} read line; exit 3"));
        assert!(ended.measure(&Request::Peaks).unwrap_err().contains("exit status: 3"));
        assert!(ended.missing.is_some());
        let mut failing = shell(&format!(r#"{HELLO} while read line; do echo '{{"error":"not now"}}'; done"#));
        assert_eq!(failing.measure(&Request::Peaks).unwrap_err(), "not now");
        assert_eq!(failing.missing, None, "it may do something else");
        let mut none = Contestant::new("x", "X", "/no/such/program".into(), vec![]);
        assert!(none.measure(&Request::Peaks).unwrap_err().contains("cannot be started"));
    }
}
