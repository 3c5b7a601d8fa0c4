//! The steps of the built-in recipes, to be read like code.

use rootfs_builder::{bootstrap_command, built_in, parse, plan, resolve_base};

#[test]
fn built_in_recipes_give_these_steps() {
    for name in ["ubuntu", "debian", "grader"] {
        let recipe = parse(built_in(name).unwrap()).unwrap();
        insta::assert_json_snapshot!(format!("{name}_base"), resolve_base(&recipe.base, "amd64"));
        insta::assert_json_snapshot!(format!("{name}_plan"), plan(&recipe));
    }
    insta::assert_json_snapshot!("bootstrap", bootstrap_command("trixie"));
}

#[test]
fn no_step_names_a_host_but_the_distributions_own() {
    for name in ["ubuntu", "debian", "grader"] {
        let recipe = built_in(name).unwrap();
        let plan = format!("{:?}", plan(&parse(recipe).unwrap()));
        for line in recipe.lines().filter(|line| line.contains("://")) {
            assert!(line.contains("\"https://cdimage.ubuntu.com/"), "{line}");
        }
        assert!(!plan.contains("://"), "{plan}");
    }
}
