//! The keys file under a running gateway: changed, broken, gone; named by the configuration, and not any more.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tutti_tests::{Keyed, Tutti, eventually, id_of, pool, run, simulator, with_keys};

fn status(keyed: &Keyed, key: &str) -> u16 {
    keyed.ask(key, "GET", "/api/tags", "").status
}

/// Waits until the gateway has refused the file; yields why.
fn refused(keyed: &Keyed) -> String {
    let why = eventually("the file is refused", || keyed.status()["reload"]["error"].as_str().map(str::to_owned));
    assert_eq!(keyed.tutti.metric("tutti_keys_last_reload_successful", &[]), 0.0);
    keyed.tutti.wait_said("the keys file is refused");
    why
}

#[test]
fn a_changed_file_is_taken_up_and_a_broken_one_is_not() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&[]);
    let good = fs::read_to_string(keyed.file()).unwrap();
    let mend = || {
        keyed.write(&good);
        fs::set_permissions(keyed.file(), fs::Permissions::from_mode(0o600)).unwrap();
        eventually("the good file in force", || keyed.status()["reload"]["error"].is_null().then_some(()));
        assert_eq!(keyed.tutti.metric("tutti_keys_last_reload_successful", &[]), 1.0);
    };
    for (broken, says) in [
        (&good[..good.len() / 2], "keys.yaml:"),
        ("", "`keys` is missing"),
        ("keys: [{ idd: x }]", "did you mean `id`?"),
        ("keys: [", "no YAML"),
    ] {
        keyed.write(broken);
        let why = refused(&keyed);
        assert!(why.contains(says), "{broken}: {why}");
        assert_eq!(status(&keyed, &key), 200, "the keys stay as they were");
        mend();
    }
    let (admin, token) = (keyed.tutti.admin(), keyed.tutti.token_file().display().to_string());
    let shown = || run(&["status", "--admin", &admin, "--token-file", &token], &[]).stdout;
    assert!(shown().contains("keys: 1 active, 0 expired, 0 revoked, of "), "{}", shown());
    assert!(shown().contains("keys.yaml; taken up at 20"), "{}", shown());
    fs::remove_file(keyed.file()).unwrap();
    assert!(refused(&keyed).contains("there is no keys file"));
    assert!(shown().contains("was refused: there is no keys file"), "{}", shown());
    assert_eq!(status(&keyed, &key), 200);
    mend();

    keyed.write(&good.replace("\"acme\"", "\"other\""));
    fs::set_permissions(keyed.file(), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(refused(&keyed).contains("chmod 600"));
    assert_eq!(status(&keyed, &key), 200);
    mend();

    // By hand, and without telling the gateway.
    keyed.write("keys: []");
    eventually("nobody has a key", || (status(&keyed, &key) == 401).then_some(()));
    assert_eq!(keyed.tutti.metric("tutti_keys", &["state=\"active\""]), 0.0);
    keyed.write(&good);
    eventually("who had one has it again", || (status(&keyed, &key) == 200).then_some(()));
}

#[test]
fn a_command_says_whether_the_gateway_goes_by_it() {
    let replica = simulator();
    let keyed = Keyed::start(&pool(&[replica.url()], "expose: all"));
    let key = keyed.new_key(&[]);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.yaml").display().to_string();
    let (admin, token) = (keyed.tutti.admin(), keyed.tutti.token_file().display().to_string());
    let new = ["key", "new", "--name", "n", "--tenant", "t", "--keys-file"];
    let elsewhere = run(&[&new[..], &[&other, "--admin", &admin, "--token-file", &token]].concat(), &[]);
    assert!(elsewhere.code == Some(0) && elsewhere.stderr.contains("goes by another file"), "{}", elsewhere.stderr);

    let nobody = run(&[&new[..], &[&other, "--admin", "127.0.0.1:1", "--token-file", &token]].concat(), &[]);
    assert!(nobody.code == Some(0) && nobody.stderr.contains("no running gateway was told"), "{}", nobody.stderr);
    assert_eq!(nobody.stdout.lines().count(), 1);

    let open = Tutti::before(&[replica.url()]);
    let (admin, token) = (open.admin(), open.token_file().display().to_string());
    let open = run(&[&new[..], &[&other, "--admin", &admin, "--token-file", &token]].concat(), &[]);
    assert!(open.code == Some(0) && open.stderr.contains("wants no keys"), "{}", open.stderr);

    // The gateway cannot go by it: the command fails, and says so.
    fs::set_permissions(keyed.file(), fs::Permissions::from_mode(0o622)).unwrap();
    let unsafe_file = keyed.key(&["revoke", &id_of(&key)]);
    assert!(unsafe_file.code == Some(1) && unsafe_file.stderr.contains("chmod 600"), "{}", unsafe_file.stderr);
    assert_eq!(status(&keyed, &key), 200);
}

#[test]
fn without_a_good_file_it_does_not_start() {
    let replica = simulator();
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (folder.path().join("tutti.yaml"), folder.path().join("keys.yaml"));
    fs::write(&config, with_keys(&file.display().to_string(), &pool(&[replica.url()], ""))).unwrap();
    let config = config.to_str().unwrap();
    let free = [
        ("TUTTI__GATEWAY__LISTEN", "127.0.0.1:0"),
        ("TUTTI__GATEWAY__OPS", "127.0.0.1:0"),
        ("TUTTI__GATEWAY__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let start = || run(&["gateway", "--config", config], &free);
    let check = || run(&["check", "--config", config], &[]);

    let ended = start();
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("tutti key new --name NAME"), "{}", ended.stderr);
    let checked = check();
    assert!(checked.code == Some(0) && checked.stderr.contains("there is no keys file"), "{}", checked.stderr);

    fs::write(&file, "keys: [{ idd: x }]").unwrap();
    for ended in [start(), check()] {
        assert!(ended.stderr.contains("keys.yaml:1:10: keys[0]: unknown field `idd`"), "{}", ended.stderr);
    }
    assert_eq!((start().code, check().code), (Some(1), Some(2)));

    fs::write(&file, "keys: []").unwrap();
    assert!(check().stderr.contains("has no keys"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(start().stderr.contains("chmod 600"));
    assert_eq!(check().code, Some(2));
}

#[test]
fn the_configuration_can_begin_to_want_keys_and_cease() {
    let replica = simulator();
    let yaml = pool(&[replica.url()], "expose: all");
    let tutti = Tutti::start(&yaml);
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let file = folder.path().join(name).display().to_string();
        let made = run(&["key", "new", "--name", "n", "--tenant", "t", "--keys-file", &file], &[]);
        (file, format!("Bearer {}", made.stdout.trim()))
    };
    let ((first, one), (second, two)) = (made("a.yaml"), made("b.yaml"));
    let status = |key: Option<&str>| {
        let headers: Vec<(&str, &str)> = key.into_iter().map(|key| ("authorization", key)).collect();
        tutti.client().ask("GET", "/api/tags", &headers, "").status
    };
    let becomes = |key: Option<&str>, wanted: u16| {
        eventually("the change", || (status(key) == wanted).then_some(()));
    };
    assert_eq!(status(None), 200);
    tutti.write_config(&with_keys(&first, &yaml));
    becomes(None, 401);
    assert_eq!((status(Some(&one)), status(Some(&two))), (200, 401));
    tutti.write_config(&with_keys(&second, &yaml));
    becomes(Some(&two), 200);
    assert_eq!((status(Some(&one)), status(None)), (401, 401));
    // A file that is not followed any more changes nothing; a configuration that names a missing one is refused.
    let revoked = fs::read_to_string(&first).unwrap();
    fs::write(&first, revoked).unwrap();
    tutti.write_config(&with_keys("/nowhere/keys.yaml", &yaml));
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("there is no keys file /nowhere/keys.yaml"), "{line}");
    assert_eq!((status(Some(&two)), status(None)), (200, 401));
    tutti.write_config(&yaml);
    becomes(None, 200);
}

#[test]
fn off_loopback_it_starts_with_keys_and_keeps_them() {
    let replica = simulator();
    let folder = tempfile::tempdir().unwrap();
    let (file, config) = (folder.path().join("keys.yaml"), folder.path().join("tutti.yaml"));
    fs::write(&file, "keys: []").unwrap();
    let yaml = pool(&[replica.url()], "expose: all");
    let write = |text: &str| fs::write(&config, text).unwrap();
    write(&with_keys(&file.display().to_string(), &yaml));
    let arguments = ["gateway", "--config", config.to_str().unwrap()];
    let tutti = Tutti::start_with(&arguments, "", &[("TUTTI__GATEWAY__LISTEN", "0.0.0.0:0")]);
    tutti.wait_said("keys cross the network in clear");
    let port = tutti.listen().rsplit(':').next().unwrap().to_owned();
    let ask = || {
        let mut client = tutti_tests::Client::connect(&format!("127.0.0.1:{port}")).unwrap();
        client.ask("GET", "/api/tags", &[], "").status
    };
    assert_eq!(ask(), 401);
    write(&yaml);
    let line = tutti.wait_said("the changed configuration is refused")["fields"]["message"].to_string();
    assert!(line.contains("auth: none"), "{line}");
    assert_eq!(ask(), 401);
}
