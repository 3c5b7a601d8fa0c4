//! Long flags may be written with hyphens or underscores, whichever way they are declared.

use clap::Command;

/// Rewrites long flags to the spelling that `command` or one of its subcommands declares. What follows `--` is left alone,
/// and so is everything that is no such flag: clap says what is wrong with it.
#[must_use]
pub fn normalize(command: &Command, argv: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known = Vec::new();
    collect(command, &mut known);
    let mut verbatim = false;
    argv.into_iter()
        .map(|arg| {
            verbatim |= arg == "--";
            if verbatim {
                return arg;
            }
            let Some(flag) = arg.strip_prefix("--") else {
                return arg;
            };
            let (name, value) = flag
                .split_once('=')
                .map_or((flag, None), |(n, v)| (n, Some(v)));
            let plain = name.replace('-', "_");
            if known.iter().any(|k| k == name) {
                return arg;
            }
            let Some(spelling) = known.iter().find(|known| known.replace('-', "_") == plain) else {
                return arg;
            };
            value.map_or_else(
                || format!("--{spelling}"),
                |value| format!("--{spelling}={value}"),
            )
        })
        .collect()
}

fn collect(command: &Command, known: &mut Vec<String>) {
    for argument in command.get_arguments() {
        known.extend(argument.get_long().map(str::to_owned));
        let aliases = argument.get_all_aliases().into_iter().flatten();
        known.extend(aliases.map(str::to_owned));
    }
    for subcommand in command.get_subcommands() {
        collect(subcommand, known);
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn both_spellings_reach_the_declared_one() {
        let run = Command::new("run").arg(Arg::new("a").long("llm_name"));
        let exec = Command::new("exec").arg(Arg::new("b").long("ro-bind"));
        let command = Command::new("x").subcommand(run).subcommand(exec);
        let argv = [
            "--llm-name",
            "--llm_name=a-b",
            "--llm-name=a-b",
            "--ro_bind",
            "--other-flag",
            "-x",
            "a-b",
            "--",
            "--llm-name",
        ];
        let normal = normalize(&command, argv.map(str::to_owned));
        assert_eq!(
            normal,
            [
                "--llm_name",
                "--llm_name=a-b",
                "--llm_name=a-b",
                "--ro-bind",
                "--other-flag",
                "-x",
                "a-b",
                "--",
                "--llm-name"
            ]
        );
    }
}
