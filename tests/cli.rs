//! The program as a person calls it: what it prints, and its exit status.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use tempfile::TempDir;

    fn program() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iiblockdaemon"));
        for variable in [
            "RUST_LOG",
            "STATE_DIRECTORY",
            "JOURNAL_STREAM",
            "XDG_STATE_HOME",
        ] {
            command.env_remove(variable);
        }
        command.env("NO_COLOR", "1");
        command
    }

    /// Runs to the end; status, stdout, stderr.
    fn run(arguments: &[&str]) -> (i32, String, String) {
        let output: Output = program()
            .args(arguments)
            .output()
            .expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let status = output.status.code().expect("it ended by itself");
        (status, text(output.stdout), text(output.stderr))
    }

    fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("a temporary file can be written");
        path
    }

    fn text(path: &Path) -> &str {
        path.to_str().expect("temporary paths are UTF-8")
    }

    #[test]
    fn help_names_commands_options_and_exit_status() {
        let (status, out, err) = run(&["--help"]);
        assert_eq!((status, err.as_str()), (0, ""));
        for word in [
            "run",
            "check",
            "completions",
            "man",
            "--config <FILE>",
            "--log-level",
            "--log-format",
            "--listen <ADDR:PORT>",
            "--memory <SIZE>",
            "RUST_LOG",
            "Exit status:",
        ] {
            assert!(out.contains(word), "{word} not in\n{out}");
        }
    }

    #[test]
    fn version_is_the_packages() {
        let (status, out, _) = run(&["--version"]);
        assert_eq!(status, 0);
        assert!(
            out.starts_with(concat!("iiblockdaemon ", env!("CARGO_PKG_VERSION"))),
            "{out}"
        );
    }

    #[test]
    fn a_wrong_command_line_is_a_configuration_error() {
        for arguments in [
            &["--nonsense"][..],
            &["chekc"],
            &["check"],
            &["check", "a", "--config", "b"],
            &["--size", "1GiB", "check", "a"],
            &["--config", "a", "--memory", "1GiB"],
            &["--memory", "1GiB", "--disk", "x"],
            &["--size", "100"],
            &["--listen", "localhost"],
            &["--size", "1GiB", "run", "--size", "2GiB"],
            &["--log-level", "loud"],
        ] {
            let (status, out, err) = run(arguments);
            assert_eq!((status, out.as_str()), (1, ""), "{arguments:?}");
            assert!(err.contains("error: "), "{arguments:?}: {err}");
        }
    }

    #[test]
    fn the_example_configuration_is_good_and_has_no_warning() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/iiblockdaemon.toml");
        for arguments in [&["check", example][..], &["--config", example, "check"]] {
            let (status, out, err) = run(arguments);
            assert_eq!((status, err.as_str()), (0, ""));
            let expected = "OK: 1 target, 2 logical units, 2 portals, 0 warnings\n";
            assert!(out.ends_with(expected), "{out}");
        }
    }

    /// What it shows of ports is valid; only that no portal is there gets a warning.
    #[test]
    fn the_examples_ports_are_known() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/iiblockdaemon.toml");
        let example = fs::read_to_string(example).expect("the example is there");
        let shown: Vec<&str> = example
            .lines()
            .skip_while(|line| !line.starts_with("#   [dpdk]"))
            .map_while(|line| line.strip_prefix("#   "))
            .collect();
        assert!(
            shown.contains(&"[[port.vlan]]") && shown.len() > 25,
            "{shown:#?}"
        );
        let all = format!("{example}\n{}\n", shown.join("\n"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = file(&dir, "ports.toml", &all);
        let (status, out, err) = run(&["check", "--file-only", text(&path)]);
        assert_eq!(status, 0, "{err}");
        assert!(out.ends_with("2 portals, 1 port, 1 warning\n"), "{out}");
        assert!(err.contains("no portal is on the port \"p0\""), "{err}");
    }

    /// Of those to try out too: their devices are made by hand.
    #[test]
    fn the_examples_to_try_out_are_good_and_have_no_warning() {
        for name in ["try-tap", "try-af-packet"] {
            let example = format!("{}/deploy/{name}.toml", env!("CARGO_MANIFEST_DIR"));
            let (status, out, err) = run(&["check", "--file-only", &example]);
            assert_eq!((status, err.as_str()), (0, ""));
            assert!(out.ends_with("1 portal, 1 port, 0 warnings\n"), "{out}");
        }
    }

    /// Its cards and CPUs are another machine's, so only the file can be looked at here.
    #[test]
    fn the_example_of_a_storage_server_is_good_and_has_no_warning() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/storage-server.toml");
        let (status, out, err) = run(&["check", "--file-only", example]);
        assert_eq!((status, err.as_str()), (0, ""));
        let expected = "OK: 2 targets, 2 logical units, 7 portals, 2 ports, 0 warnings\n";
        assert!(out.ends_with(expected), "{out}");
    }

    #[test]
    fn check_looks_at_this_machine_too_unless_told_not_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // No machine has this CPU (Linux ends at 8192).
        let away = "[cores]\nlist = [65535]\n[[portal_group]]\ntag = 1\nportals = \
                    [\"127.0.0.1:3260\"]\n[[logical_unit]]\nname = \"a\"\nbackend = { type = \
                    \"memory\", size = \"1MiB\" }\n[[target]]\nname = \
                    \"iqn.2026-11.com.example:a\"\n[[target.lun]]\nlun = 0\nunit = \"a\"\n";
        let path = file(&dir, "away.toml", away);
        let (status, out, err) = run(&["check", text(&path)]);
        assert_eq!((status, out.as_str()), (1, ""));
        for expected in [
            "error: [cores] list: CPU 65535 is not there or off-line\n  help: choose from ",
            "away.toml: the file is good, and this machine lacks what it asks for: 1 error\n",
        ] {
            assert!(err.contains(expected), "{expected} not in\n{err}");
        }
        let (status, out, err) = run(&["check", text(&path), "--file-only"]);
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.contains("OK: 1 target"), "{out}");
    }

    /// The example says that lines which are commented out show the default; at least they are
    /// valid.
    #[test]
    fn the_examples_commented_keys_are_known() {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/iiblockdaemon.toml");
        let example = fs::read_to_string(example).expect("the example is there");
        let is_key = |line: &str| {
            line.split_once(" = ").is_some_and(|(key, _)| {
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
            })
        };
        let uncommented = example.lines().map(|line| match line.strip_prefix("# ") {
            // Credentials name files that are not there; `list` stands instead of `count`.
            Some(key)
                if is_key(key) && !key.contains("secret_file") && !key.starts_with("list") =>
            {
                match key.split_once(" = ").map(|(name, _)| name) {
                    Some("method" | "user" | "mutual_user") => line,
                    _ => key,
                }
            }
            _ => line,
        });
        let all = uncommented.collect::<Vec<_>>().join("\n");
        assert!(all.contains("\nno_progress_timeout_s = 60\n"), "{all}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (status, out, err) = run(&["check", text(&file(&dir, "all.toml", &all))]);
        assert_eq!((status, err.as_str()), (0, ""), "{out}");
    }

    #[test]
    fn check_prints_place_caret_and_suggestion_and_exits_1() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let bad = file(&dir, "bad.toml", "[limits]\nsesions = 5\n");
        let (status, out, err) = run(&["check", text(&bad)]);
        assert_eq!((status, out.as_str()), (1, ""));
        for expected in [
            "unknown key \"sesions\" in [limits]",
            "bad.toml:2:1]",
            " 2 │ sesions = 5\n   · ───────\n",
            "help: did you mean \"sessions\"?",
            "3 errors and 0 warnings in",
        ] {
            assert!(err.contains(expected), "{expected} not in\n{err}");
        }
    }

    #[test]
    fn a_missing_file_is_named_with_the_remedy() {
        for arguments in [
            &["check", "/nowhere/x.toml"][..],
            &["--config", "/nowhere/x.toml"],
        ] {
            let (status, out, err) = run(arguments);
            assert_eq!((status, out.as_str()), (1, ""));
            assert!(
                err.contains("/nowhere/x.toml: there is no such file\n  help: copy"),
                "{err}"
            );
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let output = program()
            .env("RUST_LOG", "a=b=c")
            .output()
            .expect("the program starts");
        assert_eq!(output.status.code(), Some(1));
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            err.contains("RUST_LOG = \"a=b=c\" is not a filter"),
            "{err}"
        );
    }

    #[test]
    fn a_state_directory_that_cannot_be_made_is_a_start_up_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let in_the_way = file(&dir, "file", "");
        let state = in_the_way.join("state");
        let (status, _, err) = run(&["--memory", "1MiB", "--state-dir", text(&state)]);
        assert_eq!(status, 2, "{err}");
        assert!(
            err.contains("cannot create the directory") && err.contains("help: "),
            "{err}"
        );
    }

    #[test]
    fn two_daemons_do_not_share_a_state_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let owner = iiblockdaemon::state::StateDir::open(dir.path()).expect("it is free");
        let (status, _, err) = run(&["--memory", "1MiB", "--state-dir", text(dir.path())]);
        assert_eq!(status, 2, "{err}");
        let expected = format!("another daemon (process {}) uses it", std::process::id());
        assert!(err.contains(&expected), "{err}");
        drop(owner);
    }

    #[test]
    fn completions_and_manual_page_are_printed() {
        for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
            let (status, out, err) = run(&["completions", shell]);
            assert_eq!((status, err.as_str()), (0, ""));
            assert!(
                out.contains("iiblockdaemon") && out.contains("log-level"),
                "{shell}: {out}"
            );
        }
        let (status, out, _) = run(&["man"]);
        assert_eq!(status, 0);
        assert!(out.contains(".TH iiblockdaemon 1"), "{out}");
        assert!(
            out.contains("Exit status:") && out.contains("check"),
            "{out}"
        );
    }
}
