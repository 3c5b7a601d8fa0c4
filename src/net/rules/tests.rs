use proptest::prelude::*;

use super::*;

fn rules(text: &str) -> Rules {
    text.parse().unwrap()
}

fn verdict(text: &str, name: &str, to: &str) -> bool {
    let name = (!name.is_empty()).then(|| Name::new(name).unwrap());
    let to: SocketAddr = to.parse().unwrap();
    let at = (Some(to.ip()), to.port());
    rules(text).verdict(name.as_ref(), at, Protocol::Tcp).allow
}

#[test]
fn the_first_rule_that_fits_decides() {
    let text = "allow:deny x.a.org,*.a.org,b.org:22,198.51.100.0/24:8000-8100";
    for (name, to, allowed) in [
        ("y.a.org", "203.0.113.1:443", true),
        ("y.a.org", "203.0.113.1:80", true),
        ("y.a.org", "203.0.113.1:22", false),
        ("x.a.org", "203.0.113.1:443", false),
        ("a.org", "203.0.113.1:443", false),
        ("eva.org", "203.0.113.1:443", false),
        ("b.org", "203.0.113.1:22", true),
        ("b.org", "203.0.113.1:443", false),
        ("", "203.0.113.1:443", false),
        ("", "198.51.100.9:8000", true),
        ("", "198.51.100.9:8100", true),
        ("", "198.51.100.9:8101", false),
        ("", "[::ffff:198.51.100.9]:8050", true),
    ] {
        assert_eq!(verdict(text, name, to), allowed, "{name} {to}");
    }
    assert!(verdict("internet", "", "203.0.113.1:9"));
    assert!(!verdict(
        "internet:deny documentation",
        "a.org",
        "203.0.113.1:9"
    ));
    assert!(verdict("internet:deny documentation", "a.org", "8.8.8.8:9"));
}

#[test]
fn files_have_lines_and_comments_and_errors_have_numbers() {
    let text =
        "allow:# what is needed\npypi.org , *.pythonhosted.org\n\n  deny evil.org # not that\n*";
    assert_eq!(
        rules(text).to_string(),
        "allow:pypi.org,*.pythonhosted.org,deny evil.org,*"
    );
    let error = "allow:pypi.org\n# x\na.org,10.0.0.0/8\n"
        .parse::<Rules>()
        .unwrap_err();
    assert_eq!((error.line, error.rule.as_str()), (3, "10.0.0.0/8"));
    assert!(
        error
            .to_string()
            .starts_with("line 3: `10.0.0.0/8` is private: no rule opens that")
    );
}

#[test]
fn what_is_no_rule_is_refused_with_a_reason() {
    for (text, problem) in [
        ("all", "is no mode"),
        ("", "is no mode"),
        ("allow", "allows nothing"),
        ("allow:", "allows nothing"),
        ("allow:# nothing", "allows nothing"),
        ("allow:deny a.org", "allows nothing"),
        ("allow:permit a.org", "is no rule"),
        ("allow:except friend a.org:1", "is no rule"),
        ("allow:a b c d", "is no rule"),
        ("allow:a..org", "names no host"),
        ("allow:bücher.de", "xn--"),
        ("allow:https://a.org", "has no ports"),
        ("allow:a*.org", "wildcard"),
        ("allow:*a.org", "wildcard"),
        ("allow:*.*.org", "names no host"),
        ("allow:a.org:0", "has no ports"),
        ("allow:a.org:70000", "has no ports"),
        ("allow:a.org:9-1", "has no ports"),
        ("allow:a.org:80/sctp", "has no ports"),
        ("allow:1.2.3.4/16", "did you mean 1.2.0.0/16"),
        ("allow:1.2.3", "is no address"),
        ("allow:127.0.0.1", "is loopback"),
        ("allow:169.254.169.254:80", "metadata"),
        ("allow:[::1]:80", "is loopback"),
        ("allow:::ffff:127.0.0.1", "is loopback"),
        ("allow:fd00::/8", "is private"),
        ("allow:except index 127.0.0.1:80", "is loopback"),
        ("allow:except index localhost:80", "is loopback"),
        ("allow:except proxy 169.254.169.254:80", "metadata"),
        ("allow:except proxy a.org", "has no ports"),
        ("internet:a.org", "cannot stand here"),
        ("internet:deny a.org", "cannot stand here"),
        ("internet:203.0.113.0/24", "cannot stand here"),
    ] {
        let error = text.parse::<Rules>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    let long = format!("allow:{}", "a.org,".repeat(20_000));
    assert!(
        long.parse::<Rules>()
            .unwrap_err()
            .to_string()
            .contains("too long")
    );
}

#[test]
fn names_are_asked_for_only_where_a_rule_may_allow_them() {
    let asked = |text: &str, name: &str| rules(text).may_ask(&Name::new(name).unwrap()).is_ok();
    let text = "allow:deny x.a.org,deny y.a.org:25,*.a.org,203.0.113.0/24,except index i.corp:80";
    assert!(asked(text, "z.a.org") && asked(text, "y.a.org") && asked(text, "i.corp"));
    assert!(!asked(text, "x.a.org") && !asked(text, "a.org") && !asked(text, "b.org"));
    assert!(asked("internet", "b.org"));
}

#[test]
fn an_exception_is_of_one_service() {
    let rules = rules("internet:except proxy 10.0.0.5:3128,except index i.corp:80");
    let at = |to: &str| to.parse::<SocketAddr>().unwrap();
    let name = Name::new("i.corp").unwrap();
    assert_eq!(
        rules.exception(&[], at("10.0.0.5:3128")).unwrap().kind,
        Service::Proxy
    );
    assert_eq!(
        rules.exception(&[&name], at("10.1.1.1:80")).unwrap().kind,
        Service::Index
    );
    assert!(rules.exception(&[&name], at("10.1.1.1:81")).is_none());
    assert!(rules.exception(&[], at("10.0.0.5:22")).is_none());
    assert!(rules.exception(&[], at("10.1.1.1:80")).is_none());
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9-]{0,8}(\\.[a-z]{2,4}){1,2}",
        "\\*\\.[a-z]{1,8}\\.org",
        Just("*".to_owned()),
        Just("2001:db8::/32".to_owned()),
        Just("[2a00::1]:443".to_owned()),
        (11_u8..100, 0_u8..=16).prop_map(|(a, bits)| format!("{a}.0.0.0/{}", 8 + bits)),
        "[a-z]{1,8}\\.org:[1-9][0-9]{0,3}(/udp)?",
        "[a-z]{1,8}\\.org:1-[1-9][0-9]{0,3}",
    ]
}

proptest! {
    #[test]
    fn what_is_shown_is_what_is_read(list in prop::collection::vec((any::<bool>(), target()), 1..8)) {
        let written: Vec<_> = list
            .iter()
            .map(|(allow, target)| if *allow { target.clone() } else { format!("deny {target}") })
            .collect();
        let text = format!("allow:x.org,{}", written.join(","));
        let read = rules(&text);
        prop_assert_eq!(&read, &rules(&read.to_string()));
    }

    #[test]
    fn no_text_is_worse_than_an_error(text in "(allow:|internet:)?\\PC{0,40}") {
        let _ = text.parse::<Rules>();
    }
}
