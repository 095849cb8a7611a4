//! The real agent, which asks for its model by the name that it has in the world.

use std::{net::TcpListener, path::Path};

use serde_json::json;

use crate::{
    bed::model::{Block, Model},
    claude,
    run::World,
    servers::MODEL_SERVER,
    stage::WEB_SERVER,
};

const MODEL: &str = "api.anthropic.com";

#[test]
fn claude_reaches_its_model_by_name_through_the_relay_and_nothing_that_the_model_asks_for_besides() {
    let world = World::new("egress-claude");
    let call =
        |command: &str| vec![Block::Tool("Bash", json!({ "command": command, "description": "a step" }))];
    let fetch = "curl --insecure --silent --show-error --max-time 20";
    let turns = vec![
        call("echo in the sandbox"),
        call(&format!("{fetch} https://www.test/")),
        call(&format!("{fetch} --connect-to www.test:443:{MODEL}:443 https://www.test/")),
        vec![Block::Text("Done.".to_owned())],
    ];
    let model = Model::serve(TcpListener::bind(MODEL_SERVER).unwrap(), turns).unwrap();
    let start = |policies: &[&Path]| {
        let mut start = world.bed.start(policies, claude::command(&claude::program(&world.bed)));
        claude::surroundings(&mut start.process, model.address);
        start.process.env_remove("ANTHROPIC_BASE_URL");
        start.process.env("NODE_EXTRA_CA_CERTS", world.folder().join(format!("{MODEL}.pem")));
        start
    };
    let session = world.policy("verify = \"sni\"");
    let run = start(&[Path::new("claude"), &session]).finish();
    assert_eq!(run.status.code(), Some(0), "{run}");
    let told = model.told();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0].content.trim(), "in the sandbox", "{told:?}");
    assert!(told[1].is_error && told[1].content.contains("Could not resolve host"), "{told:?}");
    // To the model's own address, and by another name.
    assert!(told[2].is_error && !told[2].content.contains("www.test\n"), "{told:?}");

    let by = |program: &'static str| move |it: &&crate::bed::Event| it.process("exe").ends_with(program);
    let connects = run.log.of("net.connect");
    let to_model = connects.iter().copied().filter(by("claude")).find(|it| it.object("name") == MODEL);
    let to_model = to_model.unwrap_or_else(|| panic!("no connection to the model: {run}"));
    assert_eq!((to_model.object("address"), to_model.text("outcome")), (WEB_SERVER, "allowed"), "{run}");
    let refused = run.log.all_denied("net.connect");
    let lie = refused.iter().copied().filter(by("curl")).find(|it| it.object("server_name") == "www.test");
    assert_eq!(lie.map(|it| it.rule()), Some(Some("builtin/server-name")), "{run}");
    assert!(run.log.of("net.close").iter().any(|it| it.object("name") == MODEL), "{run}");
}
