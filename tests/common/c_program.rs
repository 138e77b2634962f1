//! Compiles C programs against the header and the shared library, as a user would, and runs them where their memory is
//! watched: by AddressSanitizer and UndefinedBehaviorSanitizer, or by valgrind when `TGV_TEST_RUNNER=valgrind`.

#![allow(dead_code)] // each test binary uses another part

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Exit status by which a watcher tells that it found something.
pub const FOUND: i32 = 99;

/// A program that takes longer hangs. No test is about speed.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How many times fewer rounds loops make under valgrind, which is some 30 times slower.
const VALGRIND_ROUNDS_DIVISOR: &str = "20";

/// Who watches a program's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Compiled with AddressSanitizer (leaks included, where the platform can) and UndefinedBehaviorSanitizer. The library is
    /// not, but its allocations and its memory functions go through theirs.
    Sanitizers,
    /// Run under valgrind's memcheck.
    Valgrind,
    /// For tests that measure memory, and platforms without sanitizers.
    Nobody,
}

/// The watcher of this run of the tests.
pub fn watcher() -> Watch {
    match std::env::var("TGV_TEST_RUNNER") {
        Ok(runner) if runner == "valgrind" => Watch::Valgrind,
        Ok(runner) if !runner.is_empty() => panic!("TGV_TEST_RUNNER is '{runner}'; only 'valgrind' is known"),
        _ if cfg!(any(target_os = "linux", target_os = "macos")) => Watch::Sanitizers,
        _ => Watch::Nobody,
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library that cargo has built for this test: beside the test's own executable, or one folder up, whichever is
/// newer.
pub fn library() -> PathBuf {
    let executable = std::env::current_exe().expect("the test's own path");
    let deps = executable.parent().expect("target/<profile>/deps");
    let name = format!("{DLL_PREFIX}tinygptv{DLL_SUFFIX}");
    let candidates = [deps.join(&name), deps.parent().expect("target/<profile>").join(&name)];
    let modified = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    candidates
        .iter()
        .filter(|path| modified(path).is_some())
        .max_by_key(|path| modified(path))
        .unwrap_or_else(|| panic!("{name} is not in {}: run `cargo build --release` first", deps.display()))
        .clone()
}

/// A folder of one test, with a link to the library of its own, so that nothing another build does can disturb it. Removed
/// when dropped.
pub struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    pub fn new() -> Workshop {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("c_abi-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("a folder under target/tmp");
        let workshop = Workshop { folder };
        let (from, to) = (library(), workshop.library());
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).expect("a copy of the library");
        }
        // The name by which programs look for it.
        #[cfg(unix)]
        std::os::unix::fs::symlink(&to, workshop.path(&format!("libtinygptv.so.{}", env!("CARGO_PKG_VERSION_MAJOR"))))
            .expect("a link to the library");
        workshop
    }

    pub fn library(&self) -> PathBuf {
        self.path(&format!("{DLL_PREFIX}tinygptv{DLL_SUFFIX}"))
    }

    /// Where a file of this test may be.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file under target/tmp");
        path
    }

    /// tests/c/`name`.c as C99, watched.
    pub fn program(&self, name: &str) -> Program {
        self.build(&root().join(format!("tests/c/{name}.c")), Language::C("c99"), watcher())
    }

    /// tests/c/`name`.c as C99, unwatched.
    pub fn unwatched_program(&self, name: &str) -> Program {
        self.build(&root().join(format!("tests/c/{name}.c")), Language::C("c99"), Watch::Nobody)
    }

    /// Compiles with every warning an error, and links with the library.
    pub fn build(&self, source: &Path, language: Language, watch: Watch) -> Program {
        self.build_with(source, language, watch, &[])
    }

    /// The same, with options of the compiler.
    pub fn build_with(&self, source: &Path, language: Language, watch: Watch, options: &[&str]) -> Program {
        let stem = source.file_stem().and_then(OsStr::to_str).expect("a file name");
        let path = self.path(stem);
        let mut command = language.compiler();
        command.args(["-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        command.args(options);
        if watch == Watch::Sanitizers {
            command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]);
        }
        let mut rpath = OsString::from("-Wl,-rpath,");
        rpath.push(&self.folder);
        command.arg("-I").arg(root().join("include")).arg(source).arg("-o").arg(&path);
        command.arg("-L").arg(&self.folder).args(["-ltinygptv", "-pthread", "-ldl", "-lm"]).arg(rpath);
        let output = command.output().unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{command:?}\n{}\n(without a runtime for -fsanitize=address, install the compiler's, or set CC)",
            String::from_utf8_lossy(&output.stderr)
        );
        Program { path, watch }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a source file is compiled as.
#[derive(Clone, Copy, Debug)]
pub enum Language {
    /// This standard of C.
    C(&'static str),
    /// This standard of C++, whatever the file is called.
    Cpp(&'static str),
}

impl Language {
    fn compiler(self) -> Command {
        let (variable, fallback, standard) = match self {
            Language::C(standard) => ("CC", "cc", standard),
            Language::Cpp(standard) => ("CXX", "c++", standard),
        };
        let words = std::env::var(variable).unwrap_or_else(|_| fallback.into());
        let mut words = words.split_whitespace();
        let mut command = Command::new(words.next().unwrap_or(fallback));
        command.args(words).arg(format!("-std={standard}"));
        if let Language::Cpp(_) = self {
            command.args(["-x", "c++"]);
        }
        command
    }
}

/// A compiled program.
pub struct Program {
    path: PathBuf,
    watch: Watch,
}

impl Program {
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Outcome {
        self.run_with_input(arguments, "")
    }

    pub fn run_with_input<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>, input: &str) -> Outcome {
        self.run_with(arguments, input, &[])
    }

    /// With an input, and with variables in its environment.
    pub fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &str,
        environment: &[(&str, &str)],
    ) -> Outcome {
        let mut command = match self.watch {
            Watch::Valgrind => {
                let mut command = Command::new("valgrind");
                // Interior pointers, as hash tables have them, are only "possibly" lost.
                command.args(["-q", "--leak-check=full"]);
                command.args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"]);
                // One thread runs at a time, and without this the others hardly ever get their turn.
                command.arg("--fair-sched=try");
                // A child that a signal ends on purpose is no complaint.
                command.arg("--child-silent-after-fork=yes");
                command.arg(format!("--error-exitcode={FOUND}")).arg(&self.path);
                command.env("TGV_TEST_ROUNDS_DIVISOR", VALGRIND_ROUNDS_DIVISOR);
                command
            }
            _ => Command::new(&self.path),
        };
        let leaks = u8::from(cfg!(target_os = "linux"));
        command.env(
            "ASAN_OPTIONS",
            format!("detect_leaks={leaks}:halt_on_error=1:exitcode={FOUND}:detect_stack_use_after_return=1:strict_string_checks=1"),
        );
        command.env("UBSAN_OPTIONS", format!("halt_on_error=1:print_stacktrace=1:exitcode={FOUND}"));
        // cargo names folders there that may hold an older library under the name that programs look for.
        command.env_remove("LD_LIBRARY_PATH");
        command.envs(environment.iter().copied());
        // Examples and programs find their files relative to here.
        command.current_dir(root()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let title = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{title} does not start: {e}"));

        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_owned();
        // A program that ends without reading all of its input is none of our business.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let stdout = read_all(child.stdout.take().expect("a pipe"));
        let stderr = read_all(child.stderr.take().expect("a pipe"));
        let start = Instant::now();
        let status = loop {
            match child.try_wait().expect("the child's status") {
                Some(status) => break Some(status),
                None if start.elapsed() > PATIENCE => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let [stdout, stderr] = [stdout, stderr].map(|t| t.join().expect("a reader"));
        writer.join().expect("a writer");
        let status = status.unwrap_or_else(|| panic!("{title}\nhangs\n{stdout}\n{stderr}"));
        Outcome { title, code: status.code(), status: status.to_string(), stdout, stderr }
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How a program ended.
pub struct Outcome {
    title: String,
    status: String,
    /// `None` after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Fails the test unless the program succeeded without a word of complaint.
    #[track_caller]
    pub fn succeeds(&self) -> &Outcome {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{}", self.report());
        self
    }

    #[track_caller]
    pub fn exits_with(&self, code: i32) -> &Outcome {
        assert!(self.code == Some(code), "expected exit status {code}\n{}", self.report());
        self
    }

    pub fn report(&self) -> String {
        const SHOWN: usize = 6000;
        let tail = |text: &str| match text.char_indices().rev().nth(SHOWN) {
            Some((at, _)) => format!("…{}", &text[at..]),
            None => text.to_owned(),
        };
        format!(
            "{}\n{}\n--- stdout\n{}\n--- stderr\n{}",
            self.title,
            self.status,
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}
