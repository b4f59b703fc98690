//! `--help` of every command, found by reading the help of the one above it.

use crate::process::coterie;
use crate::session::check_verbatim;

#[tokio::test]
async fn every_command_explains_itself() {
    let mut commands: Vec<Vec<String>> = vec![vec![]];
    while let Some(command) = commands.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let said = coterie(&words).await;
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{words:?}");
        let name = [&["help".to_owned()], command.as_slice()].concat().join("-");
        check_verbatim(&name, &format!("$ coterie {}\n{}", words.join(" "), said.out));
        for sub in subcommands(&said.out) {
            commands.push([command.as_slice(), &[sub]].concat());
        }
    }
}

/// The names under `Commands:`, save that of clap's own `help`.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| {
        let is_name = line.starts_with("  ") && !line.starts_with("   ");
        line.split_whitespace().next().filter(|name| is_name && *name != "help")
    });
    names.map(str::to_owned).collect()
}
