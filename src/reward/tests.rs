//! What the rewards decide, by example; `tests/benchmark` compares them with the Python packages.

use super::*;

#[test]
fn the_last_balanced_box_counts() {
    for (text, content) in [
        ("so \\boxed{1} no \\boxed{\\frac{a}{b}}.", "\\frac{a}{b}"),
        (" 42 ", "42"),
        ("\\boxed{open", "\\boxed{open"),
        ("\\boxed{}", ""),
    ] {
        assert_eq!(boxed(text), content);
    }
}

#[test]
fn a_letter_is_found_where_the_text_settles_on_it() {
    for (text, truth) in [
        ("c", "C"),
        ("{\"answer\": \"B\"}", "B"),
        ("Answer：d", "D"),
        ("**Answer:** (B)", "B"),
        ("The correct answer is C because A fails", "C"),
        ("my choice is a.", "A"),
        ("The answer is \\boxed{D}", "D"),
        ("\\boxed{\\text{E}}", "E"),
        ("\\boxed{(F) ether}", "F"),
        ("It cannot be A or B, so C", "C"),
        ("B. ethanol", "B"),
        ("B\nis a good choice, I think", "B"),
        ("A", "A"),
        ("(J)", "J"),
        ("(c)", "C"),
        ("I think it is c", "C"),
        ("B since x > 0", "B"),
        ("C, e.g. 5 m", "C"),
        ("it is d, i.e. small", "D"),
    ] {
        assert_eq!(letter(text, truth), 1.0, "{text}");
        assert_eq!(letter(text, "Z"), 0.0, "{text}");
    }
    // The article and the pronoun are no choices.
    assert_eq!(letter("Give a dose of aspirin", "A"), 0.0);
    assert_eq!(letter("D. I think a lot", "D"), 1.0);
    assert_eq!(letter("", "A"), 0.0);
    assert_eq!(letter("", ""), 0.0);
    assert_eq!(
        letter("The answer isn't A", "A"),
        1.0,
        "known weakness: no negation"
    );
}

#[test]
fn mathematics_is_decided_only_where_the_text_decides() {
    for (answer, truth, equal) in [
        ("\\boxed{042}", "42", Some(true)),
        ("42.0", "42", Some(true)),
        ("$1,234$", "1234", Some(true)),
        ("1{,}234", "1234", Some(true)),
        ("\\dfrac{1}{2}", "\\frac12", Some(true)),
        ("0.5", "1/2", Some(true)),
        ("-\\frac{3}{6}", "-0.5", Some(true)),
        ("43", "42", Some(false)),
        ("0.333", "1/3", None),
        ("2", "\\sqrt{4}", None),
        (
            "\\left( 3, \\frac{\\pi}{2} \\right)",
            "(3,\\frac{\\pi}{2})",
            Some(true),
        ),
        ("", "42", Some(false)),
        ("1,23", "123", None),
        (
            "12345678901234567890123456789012345678901",
            "1",
            Some(false),
        ),
        ("1/0", "1", None),
        ("42.", "42", None),
    ] {
        assert_eq!(math(answer, truth), equal, "{answer} = {truth}");
    }
}

#[test]
fn a_number_may_be_five_per_cent_off() {
    for (answer, truth, right) in [
        ("104", "100", true),
        ("106", "100", false),
        ("-1.5 \\times 10^{3}", "-1500", true),
        ("The force is F = 9.81 N.", "9.8", true),
        ("about 3e8 m/s", "2.998e8", true),
        ("I do not know", "1", false),
        ("0", "0", true),
        ("\\boxed{7} after 9", "7", true),
    ] {
        assert_eq!(numeric(answer, truth), right, "{answer} = {truth}");
    }
}

#[test]
fn sets_and_words() {
    assert_eq!(set_f1("a, C", "A,B"), 0.5);
    assert_eq!(set_f1("", "A,B"), 0.0);
    assert!((rouge_l("the cats sat", "a cat was sitting") - 2.0 / 7.0).abs() < 1e-12);
    assert_eq!(rouge_l("", "x"), 0.0);
    let truth = |answer, domain, qa_type| Truth {
        answer,
        aliases: &[],
        domain,
        qa_type,
    };
    let composite = |answer, truth| Reward::Composite.score(answer, truth);
    assert_eq!(
        composite("B,A", truth("A,B", "instruct_pretrain", "multiple choice")),
        Some(1.0)
    );
    assert_eq!(
        composite("1/2", truth("0.5", "instruct_pretrain", "free")),
        Some(1.0)
    );
    // Other words may still be an equal formula; if they are not, they count as words.
    let free = truth("the red fox", "instruct_pretrain", "free-form");
    assert_eq!(composite("The red fox.", free), Some(1.0));
    assert_eq!(composite("a red fox", free), None);
    let decided = |equal, answer, truth| Reward::Composite.by_algebra(equal, answer, truth);
    assert_eq!(decided(true, "a red fox", free), 1.0);
    assert!((decided(false, "a red fox", free) - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(decided(false, "x y", truth("x z", "math", "")), 0.0);
    assert_eq!(
        composite("43", truth("42", "instruct_pretrain", "free-form")),
        Some(0.0)
    );
    assert_eq!(composite(" ", truth("0.5", "math", "")), Some(0.0));
    assert_eq!(composite("x", truth("{}", "instruct_follow", "")), None);
    assert_eq!(
        Reward::ByType.score("x", truth("y", "physics", "free-form")),
        None
    );
    assert_eq!(Reward::Judge.score("x", truth("x", "", "")), None);
    assert_eq!(Reward::Judge.score(" ", truth("x", "", "")), Some(0.0));
}

#[test]
fn names_are_those_of_configurations() {
    for reward in Reward::ALL {
        let name = serde_json::to_value(reward).unwrap();
        assert_eq!(name, reward.name());
    }
}
