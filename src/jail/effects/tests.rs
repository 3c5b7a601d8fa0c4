use super::*;

fn difference(path: &str) -> Difference {
    Difference {
        path: path.into(),
        change: Change::Created,
        before: Before::Nothing,
        now: None,
        suspected: false,
    }
}

fn many(directory: &str, count: usize) -> impl Iterator<Item = Difference> {
    (0..count).map(move |n| difference(&format!("{directory}/{n}")))
}

#[test]
fn directories_with_few_changes_are_listed() {
    let all: Vec<_> = many("usr/lib/a/b", 90)
        .chain(many("usr/lib/a/c", 9))
        .chain([difference("x")])
        .collect();
    assert_eq!(choose(all).0.len(), MAX_LISTED);
    let all = many("usr/lib/a/b", 300)
        .chain(many("usr/lib/a/c", 9))
        .chain(many("testbed", 3))
        .chain([difference("x")]);
    let (listed, rest) = choose(all.collect());
    assert_eq!(listed.len(), 4);
    let seen: Vec<_> = rest
        .iter()
        .map(|part| (&*part.path, part.created))
        .collect();
    assert_eq!(seen, [("/usr/lib/a", 309)]);
}

#[test]
fn directories_are_bounded_and_nothing_is_lost() {
    let all: Vec<_> = (0..200)
        .flat_map(|n| many(&format!("d{n:03}"), 150).collect::<Vec<_>>())
        .collect();
    let (listed, rest) = choose(all);
    assert_eq!((listed.len(), rest.len()), (0, MAX_DIRECTORIES));
    assert_eq!(rest.iter().map(|part| part.created).sum::<u64>(), 30_000);
    assert_eq!(rest.last().unwrap().path, "/");
}

#[test]
fn what_is_only_suspected_is_not_summed_up() {
    let all = many("d", 200).map(|mut difference| {
        difference.suspected = true;
        difference
    });
    let (listed, rest) = choose(all.collect());
    assert!(listed.is_empty());
    assert_eq!(rest, []);
}

#[test]
fn paths_tell_every_byte_and_have_an_end() {
    assert_eq!(absolute(b"a/b\\c\xff\xc3\xa4"), "/a/b\\\\c\\xffä");
    let long = absolute("ä".repeat(MAX_PATH).as_bytes());
    assert!(long.len() <= MAX_PATH + 3 && long.ends_with('…'));
}
