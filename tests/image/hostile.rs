//! Archives that mean harm, one by one.

use std::fs;
use std::os::unix::fs::MetadataExt;

use llm_in_sandbox::tree::{LeftOutReason, UnpackErrorKind, UnpackPolicy};
use tar::EntryType;

use super::archive::{Archive, Arena, header, names};

#[test]
fn parent_names_are_refused() {
    for name in [
        "../outside/evil",
        "a/../../outside/evil",
        "..",
        "a/..",
        "./../outside/canary",
    ] {
        let archive = Archive::default()
            .file("first", b"1")
            .file(name, b"evil")
            .bytes();
        for policy in [
            UnpackPolicy::image(),
            UnpackPolicy::layer(),
            UnpackPolicy::copy_out(),
        ] {
            Arena::new().refuses(
                &archive,
                &policy,
                Some(name),
                &UnpackErrorKind::ParentName,
                &["first"],
            );
        }
    }
}

#[test]
fn absolute_names_are_refused() {
    let arena = Arena::new();
    let name = arena.outside().join("evil").to_string_lossy().into_owned();
    let archive = Archive::default().file(&name, b"evil").bytes();
    arena.refuses(
        &archive,
        &UnpackPolicy::image(),
        Some(&name),
        &UnpackErrorKind::AbsoluteName,
        &[],
    );
}

#[test]
fn nothing_is_written_through_a_link_to_a_directory() {
    let arena = Arena::new();
    let target = arena.outside().to_string_lossy().into_owned();
    for target in [target.as_str(), "../outside"] {
        let arena = Arena::new();
        let archive = Archive::default()
            .symlink("link", target)
            .file("link/evil", b"evil")
            .bytes();
        arena.refuses(
            &archive,
            &UnpackPolicy::image(),
            Some("link/evil"),
            &UnpackErrorKind::ThroughLink,
            &["link"],
        );
    }
}

#[test]
fn nothing_is_written_through_a_chain_of_links() {
    let arena = Arena::new();
    let archive = Archive::default()
        .directory("d")
        .symlink("d/up", "..")
        .symlink("out", "d/up/../outside")
        .directory("out/deep")
        .bytes();
    arena.refuses(
        &archive,
        &UnpackPolicy::image(),
        Some("out/deep"),
        &UnpackErrorKind::ThroughLink,
        &["d", "d/up", "out"],
    );
}

#[test]
fn a_file_replaces_a_link_instead_of_following_it() {
    let arena = Arena::new();
    let archive = Archive::default()
        .symlink("name", "../outside/canary")
        .file("name", b"mine")
        .bytes();
    arena.unpack(&archive, &UnpackPolicy::image()).unwrap();
    let made = arena.tree().join("name");
    assert!(fs::symlink_metadata(&made).unwrap().is_file());
    assert_eq!(fs::read(&made).unwrap(), b"mine");
}

#[test]
fn a_directory_member_over_a_link_is_a_collision_and_changes_no_mode() {
    let arena = Arena::new();
    let archive = Archive::default()
        .symlink("name", "../outside")
        .raw(b"name", EntryType::Directory, b"", 0o700, b"")
        .bytes();
    arena.refuses(
        &archive,
        &UnpackPolicy::image(),
        Some("name"),
        &UnpackErrorKind::Collision,
        &["name"],
    );
}

#[test]
fn hard_links_reach_only_files_of_the_tree() {
    for target in [
        "../outside/canary",
        "/etc/passwd",
        "missing",
        "dir",
        "",
        "link/canary",
    ] {
        let arena = Arena::new();
        let archive = Archive::default()
            .directory("dir")
            .symlink("link", "../outside")
            .hard_link("evil", target)
            .bytes();
        let kind = UnpackErrorKind::BadHardLink(target.to_owned());
        arena.refuses(
            &archive,
            &UnpackPolicy::image(),
            Some("evil"),
            &kind,
            &["dir", "link"],
        );
    }
}

#[test]
fn a_hard_link_to_a_link_is_refused_where_links_must_stay_inside() {
    let arena = Arena::new();
    let archive = Archive::default()
        .file("a/b/f", b"1")
        .symlink("a/b/up", "../../a")
        .hard_link("up", "a/b/up")
        .bytes();
    let kind = UnpackErrorKind::BadHardLink("a/b/up".to_owned());
    arena.refuses(
        &archive,
        &UnpackPolicy::copy_out(),
        Some("up"),
        &kind,
        &["a", "a/b", "a/b/f", "a/b/up"],
    );
}

#[test]
fn writing_to_a_hard_linked_name_makes_a_new_file() {
    let arena = Arena::new();
    let archive = Archive::default()
        .file("a", b"old")
        .hard_link("b", "a")
        .file("b", b"new")
        .bytes();
    arena.unpack(&archive, &UnpackPolicy::image()).unwrap();
    assert_eq!(fs::read(arena.tree().join("a")).unwrap(), b"old");
    assert_eq!(fs::read(arena.tree().join("b")).unwrap(), b"new");
}

#[test]
fn links_that_could_leave_are_left_out_of_a_copy() {
    let arena = Arena::new();
    let archive = Archive::default()
        .symlink("absolute", "/etc/passwd")
        .symlink("above", "../outside/canary")
        .directory("d")
        .symlink("d/here", ".")
        .symlink("d/detour", "here/../../outside")
        .symlink("d/inside", "../d/here")
        .bytes();
    let report = arena.unpack(&archive, &UnpackPolicy::copy_out()).unwrap();
    assert_eq!(names(&arena.tree()), ["d", "d/here", "d/inside"]);
    assert_eq!(report.left_out.count(LeftOutReason::LeavingLink), 3);
}

#[test]
fn devices_fifos_and_unknown_types() {
    for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo] {
        let archive = Archive::default()
            .special("node", kind)
            .file("after", b"1")
            .bytes();
        let arena = Arena::new();
        let report = arena.unpack(&archive, &UnpackPolicy::image()).unwrap();
        assert_eq!(names(&arena.tree()), ["after"]);
        assert_eq!(report.left_out.count(LeftOutReason::Special), 1);
        Arena::new().refuses(
            &archive,
            &UnpackPolicy::copy_out(),
            Some("node"),
            &UnpackErrorKind::SpecialFile,
            &[],
        );
    }
    let archive = Archive::default()
        .special("odd", EntryType::new(b'Z'))
        .bytes();
    Arena::new().refuses(
        &archive,
        &UnpackPolicy::image(),
        Some("odd"),
        &UnpackErrorKind::UnsupportedType(b'Z'),
        &[],
    );
}

#[test]
fn set_id_bits_are_cleared_and_counted() {
    let arena = Arena::new();
    let archive = Archive::default()
        .mode("su", 0o4755)
        .mode("sg", 0o2755)
        .mode("plain", 0o1755)
        .bytes();
    let report = arena.unpack(&archive, &UnpackPolicy::image()).unwrap();
    assert_eq!(report.cleared_bits, 2);
    for (name, mode) in [("su", 0o755), ("sg", 0o755), ("plain", 0o1755)] {
        assert_eq!(
            fs::metadata(arena.tree().join(name)).unwrap().mode() & 0o7777,
            mode,
            "{name}"
        );
    }
}

#[test]
fn collisions_of_kinds_are_refused() {
    let file_over_directory = Archive::default().file("a/b", b"1").file("a", b"2").bytes();
    Arena::new().refuses(
        &file_over_directory,
        &UnpackPolicy::image(),
        Some("a"),
        &UnpackErrorKind::Collision,
        &["a", "a/b"],
    );
    let below_a_file = Archive::default().file("a", b"1").file("a/b", b"2").bytes();
    Arena::new().refuses(
        &below_a_file,
        &UnpackPolicy::image(),
        Some("a/b"),
        &UnpackErrorKind::Collision,
        &["a"],
    );
    let directory_over_file = Archive::default().file("a", b"1").directory("a").bytes();
    Arena::new().refuses(
        &directory_over_file,
        &UnpackPolicy::layer(),
        Some("a"),
        &UnpackErrorKind::Collision,
        &["a"],
    );
}

#[test]
fn a_second_member_of_a_name_wins_in_an_image_and_is_refused_in_a_copy() {
    let archive = Archive::default().file("a", b"1").file("a", b"2").bytes();
    let arena = Arena::new();
    arena.unpack(&archive, &UnpackPolicy::image()).unwrap();
    assert_eq!(fs::read(arena.tree().join("a")).unwrap(), b"2");
    Arena::new().refuses(
        &archive,
        &UnpackPolicy::copy_out(),
        Some("a"),
        &UnpackErrorKind::Duplicate,
        &["a"],
    );
}

#[test]
fn names_that_differ_in_case_are_different_files() {
    let arena = Arena::new();
    let archive = Archive::default()
        .file("Name", b"1")
        .file("name", b"2")
        .bytes();
    arena.unpack(&archive, &UnpackPolicy::copy_out()).unwrap();
    assert_eq!(fs::read(arena.tree().join("Name")).unwrap(), b"1");
    assert_eq!(fs::read(arena.tree().join("name")).unwrap(), b"2");
}

#[test]
fn bytes_entries_and_paths_are_bounded() {
    let policy = UnpackPolicy {
        max_bytes: 10,
        max_entries: 3,
        max_depth: 2,
        max_path: 200,
        ..UnpackPolicy::image()
    };
    let large = Archive::default()
        .file("a", b"12345")
        .file("b", b"123456")
        .bytes();
    Arena::new().refuses(
        &large,
        &policy,
        Some("b"),
        &UnpackErrorKind::TooManyBytes(10),
        &["a"],
    );
    let many = Archive::default()
        .file("a", b"")
        .file("b", b"")
        .file("c", b"")
        .file("d", b"")
        .bytes();
    Arena::new().refuses(
        &many,
        &policy,
        Some("d"),
        &UnpackErrorKind::TooManyEntries(3),
        &["a", "b", "c"],
    );
    let bound = UnpackErrorKind::PathTooLong {
        max_path: 200,
        max_depth: 2,
    };
    let deep = Archive::default().file("a/b/c", b"").bytes();
    Arena::new().refuses(&deep, &policy, Some("a/b/c"), &bound, &[]);
    let name = format!("{}/{}", "a".repeat(100), "b".repeat(150));
    let long = Archive::default().file(&name, b"").bytes();
    Arena::new().refuses(&long, &policy, Some(&name), &bound, &[]);
    let name = "n".repeat(256);
    let one_long_name = Archive::default().file(&name, b"").bytes();
    Arena::new().refuses(
        &one_long_name,
        &UnpackPolicy::image(),
        Some(&name),
        &UnpackErrorKind::BadName,
        &[],
    );
}

#[test]
fn a_sparse_member_of_a_terabyte_is_refused_before_anything_is_made() {
    let mut sparse = header(b"huge", EntryType::GNUSparse, b"", 0o644, 512);
    let gnu = sparse.as_gnu_mut().unwrap();
    gnu.sparse[0].set_offset((1 << 40) - 512);
    gnu.sparse[0].set_length(512);
    gnu.set_real_size(1 << 40);
    sparse.set_cksum();
    let mut archive = Archive::default();
    archive.push(&sparse, &[1; 512]);
    let policy = UnpackPolicy {
        max_bytes: 1 << 30,
        ..UnpackPolicy::image()
    };
    Arena::new().refuses(
        &archive.bytes(),
        &policy,
        Some("huge"),
        &UnpackErrorKind::TooManyBytes(1 << 30),
        &[],
    );
}

#[test]
fn sparse_maps_that_contradict_their_size_are_refused() {
    for (offset, length, real) in [(0, 600, 4096), (4000, 512, 4096), (u64::MAX / 2, 512, 4096)] {
        let mut sparse = header(b"s", EntryType::GNUSparse, b"", 0o644, 512);
        let gnu = sparse.as_gnu_mut().unwrap();
        gnu.sparse[0].set_offset(offset);
        gnu.sparse[0].set_length(length);
        gnu.set_real_size(real);
        sparse.set_cksum();
        let mut archive = Archive::default();
        archive.push(&sparse, &[1; 512]);
        Arena::new().refuses(
            &archive.bytes(),
            &UnpackPolicy::image(),
            Some("s"),
            &UnpackErrorKind::UnsupportedSparse,
            &[],
        );
    }
}

#[test]
fn archives_that_are_cut_short_or_garbled_are_refused() {
    let whole = Archive::default().file("a", &[7; 2000]).bytes();
    for cut in [0, 100, 512, 1000, 2560] {
        let left: &[&str] = if cut > 511 { &["a"] } else { &[] };
        Arena::new_refuses_cut(&whole[..cut], left);
    }
    let mut garbled = whole;
    garbled[5] ^= 1;
    let kind = UnpackErrorKind::Malformed("the header checksum is wrong (header 1)".to_owned());
    Arena::new().refuses(&garbled, &UnpackPolicy::image(), None, &kind, &[]);
}

impl Arena {
    #[track_caller]
    fn new_refuses_cut(archive: &[u8], left: &[&str]) {
        let arena = Self::new();
        let error = arena
            .unpack(archive, &UnpackPolicy::image())
            .expect_err("accepted");
        assert_eq!(
            error.kind,
            UnpackErrorKind::Truncated,
            "{} bytes",
            archive.len()
        );
        assert_eq!(names(&arena.tree()), left);
    }
}

#[test]
fn long_name_records_are_bounded_and_pax_lengths_are_checked() {
    let mut archive = Archive::default();
    archive.push(&header(b"L", EntryType::GNULongName, b"", 0, 1 << 40), b"");
    let kind = UnpackErrorKind::Malformed(
        "a name or pax record is larger than 1 MiB (header 1)".to_owned(),
    );
    Arena::new().refuses(&archive.bytes(), &UnpackPolicy::image(), None, &kind, &[]);
    let mut archive = Archive::default();
    archive.push(
        &header(b"p", EntryType::XHeader, b"", 0, 11),
        b"99 path=ab\n",
    );
    let kind = UnpackErrorKind::Malformed(
        "a pax record is not of the form `length key=value` (header 1)".to_owned(),
    );
    Arena::new().refuses(
        &archive.file("x", b"").bytes(),
        &UnpackPolicy::image(),
        None,
        &kind,
        &[],
    );
}

#[test]
fn a_pax_record_cannot_smuggle_a_name_past_the_checks() {
    let archive = Archive::default()
        .pax(&[("path", b"../outside/evil")])
        .file("innocent", b"evil")
        .bytes();
    Arena::new().refuses(
        &archive,
        &UnpackPolicy::image(),
        Some("../outside/evil"),
        &UnpackErrorKind::ParentName,
        &[],
    );
    let archive = Archive::default()
        .pax(&[("path", b"a\0b")])
        .file("innocent", b"evil")
        .bytes();
    Arena::new().refuses(
        &archive,
        &UnpackPolicy::image(),
        Some("a\\u{0}b"),
        &UnpackErrorKind::BadName,
        &[],
    );
}

#[test]
fn whiteouts_delete_only_what_lower_layers_made() {
    let arena = Arena::new();
    let lower = Archive::default()
        .file("a/old", b"1")
        .file("a/deep/older", b"1")
        .file("b", b"1")
        .file("c", b"1")
        .bytes();
    arena.unpack(&lower, &UnpackPolicy::layer()).unwrap();
    let upper = Archive::default()
        .file("a/new", b"2")
        .file("a/.wh..wh..opq", b"")
        .file(".wh.b", b"")
        .file("c", b"2")
        .file(".wh.c", b"")
        .file(".wh.missing", b"")
        .file(".wh..wh.plnk", b"")
        .bytes();
    let report = arena.unpack(&upper, &UnpackPolicy::layer()).unwrap();
    assert_eq!(names(&arena.tree()), ["a", "a/new", "c"]);
    assert_eq!(report.whiteouts, 4);
}

#[test]
fn whiteouts_cannot_reach_outside() {
    for (name, kind) in [
        (".wh...", UnpackErrorKind::BadWhiteout),
        (".wh..", UnpackErrorKind::BadWhiteout),
        (".wh.", UnpackErrorKind::BadWhiteout),
        ("link/.wh.canary", UnpackErrorKind::ThroughLink),
        ("link/.wh..wh..opq", UnpackErrorKind::ThroughLink),
    ] {
        let archive = Archive::default()
            .symlink("link", "../outside")
            .file(name, b"")
            .bytes();
        Arena::new().refuses(
            &archive,
            &UnpackPolicy::layer(),
            Some(name),
            &kind,
            &["link"],
        );
    }
}

#[test]
fn an_upper_layer_replaces_kinds_and_never_follows_what_it_deletes() {
    let arena = Arena::new();
    let lower = Archive::default()
        .symlink("d/out", "../../outside")
        .file("f", b"1")
        .symlink("l", "../outside")
        .bytes();
    arena.unpack(&lower, &UnpackPolicy::layer()).unwrap();
    let upper = Archive::default()
        .file("d", b"2")
        .file("f/now/a/directory", b"2")
        .bytes();
    let error = arena.unpack(&upper, &UnpackPolicy::layer()).unwrap_err();
    assert_eq!(
        (error.member.as_deref(), error.kind),
        (Some("f/now/a/directory"), UnpackErrorKind::Collision)
    );
    let upper = Archive::default()
        .directory("f")
        .file("f/x", b"2")
        .directory("l")
        .file("l/y", b"3")
        .bytes();
    arena.unpack(&upper, &UnpackPolicy::layer()).unwrap();
    assert_eq!(names(&arena.tree()), ["d", "f", "f/x", "l", "l/y"]);
}

#[test]
fn owners_that_do_not_exist_are_lost_and_counted_or_refused_as_the_policy_says() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let mut foreign = header(b"f", EntryType::Regular, b"", 0o644, 0);
    foreign.set_uid(0);
    foreign.set_cksum();
    let mut archive = Archive::default();
    archive.push(&foreign, b"");
    let archive = archive.bytes();
    let report = Arena::new()
        .unpack(&archive, &UnpackPolicy::image())
        .unwrap();
    assert_eq!(report.owners_lost, 1);
    let strict = UnpackPolicy {
        owners: llm_in_sandbox::tree::Owners::Keep,
        ..UnpackPolicy::image()
    };
    let error = Arena::new().unpack(&archive, &strict).unwrap_err();
    assert!(
        matches!(error.kind, UnpackErrorKind::System { .. }),
        "{error}"
    );
}
