//! The installed library as strangers use it: put somewhere with DESTDIR, moved elsewhere, and found there by pkg-config and
//! CMake; and the source tree as part of a CMake project.
#![cfg(target_os = "linux")]

#[path = "common/c_header.rs"]
mod c_header;
#[path = "common/c_program.rs"]
mod c_program;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use c_header::Header;
use c_program::{library, root, Workshop};

/// Fails the test with all that the command said, or gives its output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} does not start: {e}\n(scripts/setup.sh installs what is missing)"));
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

fn sh(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(root());
    command
}

fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

/// An installed tree of a test, moved to where nobody told it to be.
struct Tree {
    workshop: Workshop,
    prefix: PathBuf,
}

impl Tree {
    /// With the library folder of a system that keeps several kinds of libraries apart.
    const LIBDIR: &'static str = "lib/some-linux";

    fn new() -> Tree {
        let workshop = Workshop::new();
        let prefix = workshop.path("moved here");
        copy_tree(installed(), &prefix);
        Tree { workshop, prefix }
    }

    fn lib(&self) -> PathBuf {
        self.prefix.join(Tree::LIBDIR)
    }

    /// What pkg-config says, as words for a compiler. The folder has a space in its name, which pkg-config escapes.
    fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", self.lib().join("pkgconfig")).args(arguments).arg("tinygptv");
        let said = run(&mut command);
        let words = said.trim().replace("\\ ", "\0");
        words.split_whitespace().map(|w| w.replace('\0', " ")).collect()
    }

    /// Compiles tests/install/`source` and runs it, which must answer.
    #[track_caller]
    fn c_program_answers(&self, source: &str, options: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        let program = self.workshop.path("program");
        let mut command = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
        command.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"]).arg(&program);
        run(command.arg(root().join("tests/install").join(source)).args(options));
        answers(&program);
    }

    /// `-rpath` to the installed libraries.
    fn rpath(&self) -> String {
        format!("-Wl,-rpath,{}", self.lib().display())
    }
}

/// The tree as `make install` leaves it, made once for all tests.
fn installed() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let stage = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stage");
        let _ = fs::remove_dir_all(&stage);
        let build = library().parent().expect("a folder").to_owned();
        let mut install = sh("umask 077; sh scripts/install.sh");
        install.env("PREFIX", "/opt/first").env("DESTDIR", &stage).env("LIBDIR", Tree::LIBDIR).env("BUILD", build);
        run(&mut install);
        stage.join("opt/first")
    })
}

/// Runs a program of tests/install on a demo question.
#[track_caller]
fn answers(program: &Path) {
    let demo = root().join("assets/demo");
    let mut command = Command::new(program);
    command.args(["tinygptv-demo-q4_k_m.gguf", "tinygptv-demo-vision-q8_0.gguf", "shapes-2.png"].map(|f| demo.join(f)));
    assert_eq!(run(command.arg("What color is the star?")), "red\n");
}

// ---- The tree

/// Every file and link below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let expand = |path: PathBuf| if path.is_dir() && !path.is_symlink() { files(&path) } else { vec![path] };
    entries.flat_map(|e| expand(e.expect("an entry").path())).collect()
}

#[test]
fn tree_is_complete_and_knows_no_place() {
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new();
    let version = env!("CARGO_PKG_VERSION");
    let major = env!("CARGO_PKG_VERSION_MAJOR");
    let link = |name: &str| fs::read_link(tree.lib().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(link("libtinygptv.so"), Path::new(&format!("libtinygptv.so.{major}")));
    assert_eq!(link(&format!("libtinygptv.so.{major}")), Path::new(&format!("libtinygptv.so.{version}")));
    let dynamic = run(Command::new("readelf").arg("-d").arg(tree.lib().join("libtinygptv.so")));
    assert!(dynamic.contains(&format!("[libtinygptv.so.{major}]")), "{dynamic}");

    let places = ["/opt/first".to_owned(), "/stage".to_owned(), root().display().to_string()];
    let mut texts = 0;
    for path in files(&tree.prefix) {
        let mode = fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        let library = path.to_string_lossy().contains(".so");
        assert_eq!(mode, if library { 0o755 } else { 0o644 }, "{}", path.display());
        if let Ok(text) = fs::read_to_string(&path) {
            let place = places.iter().find(|place| text.contains(place.as_str()));
            assert_eq!(place, None, "{}", path.display());
            texts += 1;
        }
    }
    assert!(texts > 40, "only {texts} texts are installed");
    for header in ["tinygptv.h", "tinygptv.hpp"] {
        assert!(fs::read(tree.prefix.join("include").join(header)).is_ok_and(|installed| {
            installed == fs::read(root().join("include").join(header)).expect("the header")
        }));
    }
}

#[test]
fn manual_pages_tell_of_everything() {
    let tree = Tree::new();
    let folder = tree.prefix.join("share/man/man3");
    let page = fs::read_to_string(folder.join("tinygptv.3")).expect("the manual page");
    let header = Header::read();
    for function in &header.functions {
        assert!(page.contains(&format!(".SS {}\n", function.name)), "{}", function.name);
        assert!(folder.join(format!("{}.3", function.name)).exists(), "{}", function.name);
    }
    for structure in &header.structs {
        assert!(page.contains(&format!(".SS {}\n", structure.name)), "{}", structure.name);
        for field in &structure.fields {
            assert!(page.contains(&format!("{};\n", field.name)), "{}.{}", structure.name, field.name);
        }
    }
    for constant in header.constants.iter().filter(|c| !c.name.starts_with("TGV_VERSION_")) {
        assert!(page.contains(&format!(".BR {} ", constant.name)), "{}", constant.name);
    }
    // Sentences that look like commands of the formatter would be swallowed.
    let known = [".TH", ".nh", ".SH", ".SS", ".B ", ".BR", ".I ", ".PP", ".TP", ".IP", ".nf", ".fi"];
    let stray = page.lines().find(|line| line.starts_with(['.', '\'']) && !known.iter().any(|k| line.starts_with(k)));
    assert_eq!(stray, None);
}

#[test]
fn licences_of_what_is_inside_are_there() {
    let tree = Tree::new();
    let folder = tree.prefix.join("share/doc/tinygptv");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(read("LICENSE-MIT").contains("Permission is hereby granted"));
    assert!(read("LICENSE-APACHE").contains("Apache License"));
    let others = read("THIRD-PARTY-LICENSES");
    for package in ["image", "tokenizers", "regex", "rayon", "memmap2", "llama-cpp-sys-2"] {
        assert!(others.lines().any(|l| l.starts_with(&format!("{package} "))), "{package} is missing");
    }
    assert!(others.contains("llama.cpp/LICENSE: text") && others.contains("The ggml authors"));
    // Tools of the build and of tests are not inside.
    for package in ["cc", "bindgen", "cbindgen", "serde_derive", "zip"] {
        assert!(!others.lines().any(|l| l.starts_with(&format!("{package} "))), "{package} is not in the library");
    }
}

#[test]
fn install_refuses_what_it_cannot_do() {
    for (variable, value, fragment) in [
        ("PREFIX", "here", "must start with /"),
        ("LIBDIR", "/lib", "below PREFIX"),
        ("BUILD", "nowhere", "cargo build"),
    ] {
        let output =
            sh("sh scripts/install.sh").env("DESTDIR", "/nonexistent").env(variable, value).output().expect("sh");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.starts_with("install: ") && said.contains(fragment), "{said}");
    }
}

// ---- pkg-config

#[test]
fn c99_through_pkg_config() {
    let tree = Tree::new();
    assert_eq!(tree.pkg_config(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let options = tree.pkg_config(&["--cflags", "--libs"]);
    tree.c_program_answers("program.c", options.into_iter().chain([tree.rpath()]));
}

/// Where only the static library is, as in a distribution's static package.
fn without_shared(tree: &Tree) {
    for path in files(&tree.lib()) {
        if path.to_string_lossy().contains("libtinygptv.so") {
            fs::remove_file(path).expect("the file goes");
        }
    }
}

#[test]
fn c99_through_pkg_config_static() {
    let tree = Tree::new();
    let mut beside_shared = tree.pkg_config(&["--cflags", "--libs-only-L"]);
    beside_shared.extend(["-Wl,-Bstatic", "-ltinygptv", "-Wl,-Bdynamic"].map(String::from));
    beside_shared.extend(["-lstdc++", "-lm", "-ldl", "-lpthread"].map(String::from));
    tree.c_program_answers("program.c", beside_shared);
    without_shared(&tree);
    tree.c_program_answers("program.c", tree.pkg_config(&["--cflags", "--static", "--libs"]));
}

// ---- Beside others

#[test]
fn static_library_lends_the_header_only() {
    let tree = Tree::new();
    let symbols = run(Command::new("nm").args(["-g", "--defined-only"]).arg(tree.lib().join("libtinygptv.a")));
    let names = symbols.lines().filter(|l| l.split_whitespace().count() == 3);
    let names: BTreeSet<String> = names.filter_map(|l| l.split_whitespace().last()).map(str::to_owned).collect();
    let declared: BTreeSet<String> = Header::read().functions.into_iter().map(|f| f.name).collect();
    assert_eq!(names, declared);
}

/// Both libraries allocate by way of the reserve (`src/reserve.c`), and it alone of the system.
#[cfg(target_os = "linux")]
#[test]
fn libraries_have_the_reserve() {
    let tree = Tree::new();
    for library in ["libtinygptv.a", "libtinygptv.so"] {
        let symbols = run(Command::new("nm").arg(tree.lib().join(library)));
        let has = |kind: &str, name: &str| symbols.lines().any(|l| l.trim_start().ends_with(&format!("{kind} {name}")));
        for function in ["malloc", "calloc", "realloc", "free", "posix_memalign"] {
            assert!(has("t", &format!("__wrap_{function}")), "{library}: {function}");
        }
        assert!(!symbols.contains(" U __wrap_") && !symbols.contains(" U __real_"), "{library}");
    }
}

#[test]
fn program_with_functions_of_the_same_names() {
    let tree = Tree::new();
    let shared = tree.pkg_config(&["--cflags", "--libs"]);
    // -rdynamic: the program offers its functions to every library.
    tree.c_program_answers("neighbour.c", shared.into_iter().chain([tree.rpath(), "-rdynamic".into()]));
    without_shared(&tree);
    let linked = tree.pkg_config(&["--cflags", "--static", "--libs"]);
    tree.c_program_answers("neighbour.c", linked.into_iter().chain(["-rdynamic".into()]));
}

/// What the newest build of llama.cpp beside this test has installed: its headers and static libraries.
fn llama_cpp() -> PathBuf {
    let profile = library().ancestors().find(|p| p.join("build").is_dir()).expect("target/<profile>").to_owned();
    let built = |folder: &PathBuf| folder.join("lib/libllama.a").metadata().and_then(|m| m.modified()).ok();
    fs::read_dir(profile.join("build"))
        .expect("folders of build scripts")
        .map(|entry| entry.expect("an entry").path().join("out"))
        .filter(|folder| built(folder).is_some())
        .max_by_key(built)
        .expect("the build of llama.cpp")
}

#[test]
fn program_with_another_llama_cpp() {
    let tree = Tree::new();
    let llama = llama_cpp();
    let mut second =
        vec![format!("-isystem{}", llama.join("include").display()), format!("-L{}", llama.join("lib").display())];
    second.push("-Wl,--start-group".into());
    second.extend(["llama", "ggml", "ggml-cpu", "ggml-base"].map(|name| format!("-l{name}")));
    second.extend(["-Wl,--end-group", "-lstdc++", "-lm", "-lpthread", "-ldl", "-rdynamic"].map(String::from));
    let shared = tree.pkg_config(&["--cflags", "--libs"]);
    tree.c_program_answers("second_llama.c", shared.into_iter().chain([tree.rpath()]).chain(second.clone()));
    without_shared(&tree);
    let linked = tree.pkg_config(&["--cflags", "--static", "--libs"]);
    tree.c_program_answers("second_llama.c", linked.into_iter().chain(second));
}

// ---- CMake

/// Configures and builds tests/install/CMakeLists.txt; its programs must answer.
fn cmake_project_answers(workshop: &Workshop, how: &str, link: &str, more: &[String]) {
    let build = workshop.path(&format!("{how} {}", link.replace(':', "")));
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(root().join("tests/install")).arg("-B").arg(&build);
    configure.arg("-DCMAKE_BUILD_TYPE=Debug").arg(format!("-DHOW={how}")).arg(format!("-DLINK={link}"));
    run(configure.args(more));
    run(Command::new("cmake").arg("--build").arg(&build));
    for language in ["c", "cpp"] {
        let program = build.join(format!("program-{language}"));
        let needs = run(Command::new("readelf").arg("-d").arg(&program)).contains("libtinygptv.so");
        assert_eq!(needs, link == "tinygptv::tinygptv", "{} and the shared library", program.display());
        answers(&program);
    }
}

#[test]
fn find_package() {
    let tree = Tree::new();
    let path = format!("-DCMAKE_PREFIX_PATH={}", tree.prefix.display());
    // CMake looks for lib/<architecture> of its own machine only.
    let folder = format!("-Dtinygptv_DIR={}", tree.lib().join("cmake/tinygptv").display());
    for link in ["tinygptv::tinygptv", "tinygptv::static"] {
        cmake_project_answers(&tree.workshop, "find_package", link, &[path.clone(), folder.clone()]);
    }
}

#[test]
fn find_package_looks_at_versions() {
    let tree = Tree::new();
    let version = env!("CARGO_PKG_VERSION");
    let accepts = |wanted: &str| {
        let script = format!(
            "set(tinygptv_DIR \"{}\")\nfind_package(tinygptv {wanted} QUIET CONFIG)\n\
             if(NOT tinygptv_FOUND)\nmessage(FATAL_ERROR refused)\nendif()\n",
            tree.lib().join("cmake/tinygptv").display()
        );
        // As a project, for scripts have no targets.
        let folder = tree.workshop.path(&format!("version {wanted}"));
        fs::create_dir_all(&folder).expect("a folder");
        let head = "cmake_minimum_required(VERSION 3.16)\nproject(p LANGUAGES NONE)\n";
        fs::write(folder.join("CMakeLists.txt"), format!("{head}{script}")).expect("a file");
        Command::new("cmake")
            .arg("-S")
            .arg(&folder)
            .arg("-B")
            .arg(folder.join("b"))
            .output()
            .expect("cmake")
            .status
            .success()
    };
    assert!(accepts("") && accepts("0.1") && accepts(version) && accepts(&format!("{version} EXACT")));
    assert!(!accepts("99") && !accepts("0.99") && !accepts("0.1.0.1"));
}

/// The options by which cargo builds into the folder of this test, where all is ready.
fn cargo_is_ready() -> [String; 2] {
    let release = library().ancestors().find(|p| p.ends_with("release")).expect("target/release").to_owned();
    [
        format!("-DTINYGPTV_TARGET_DIR={}", release.parent().expect("target").display()),
        format!("-DTINYGPTV_CARGO={};--offline", env!("CARGO")),
    ]
}

#[test]
fn source_tree_in_another_project() {
    let workshop = Workshop::new();
    let options = [vec![format!("-DSOURCE={}", root().display())], cargo_is_ready().into()].concat();
    cmake_project_answers(&workshop, "add_subdirectory", "tinygptv::static", &options);
    cmake_project_answers(&workshop, "FetchContent", "tinygptv::tinygptv", &options);
}

/// The source tree as a project of its own: configured, built and installed.
#[test]
fn source_tree_as_a_project() {
    let workshop = Workshop::new();
    let [build, stage] = ["build", "stage"].map(|name| workshop.path(name));
    run(Command::new("cmake").arg("-S").arg(root()).arg("-B").arg(&build).args(cargo_is_ready()));
    run(Command::new("cmake").arg("--build").arg(&build));
    let mut install = Command::new("cmake");
    run(install.arg("--install").arg(&build).args(["--prefix", "/usr"]).env("DESTDIR", &stage));
    for file in
        ["include/tinygptv.hpp", "lib/libtinygptv.so.0", "lib/libtinygptv.a", "lib/cmake/tinygptv/tinygptvConfig.cmake"]
    {
        assert!(stage.join("usr").join(file).exists(), "{file} is not installed");
    }
}
