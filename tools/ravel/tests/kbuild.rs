// SPDX-License-Identifier: GPL-2.0
//! What the module's build says to a kernel that has replaced what ravel reads.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The structs as 7.3 has them.
const RMAP: &str = "\
struct anon_vma {
	struct anon_vma *root;		/* Root of this anon_vma tree */
	struct rw_semaphore rwsem;	/* W: modification, R: walking the list */
	atomic_t refcount;
	unsigned long num_children;
	unsigned long num_active_vmas;
	struct anon_vma *parent;	/* Parent of this anon_vma */
	struct rb_root_cached rb_root;
};

struct anon_vma_chain {
	struct vm_area_struct *vma;
	struct anon_vma *anon_vma;
	struct list_head same_vma;   /* locked by mmap_lock & page_table_lock */
	struct rb_node rb;			/* locked by anon_vma->rwsem */
	unsigned long rb_subtree_last;
};
";
const MM_TYPES: &str = "\
struct vm_area_struct {
	union {
		struct {
			unsigned long vm_start;
			unsigned long vm_end;
		};
	};
	struct list_head anon_vma_chain; /* Serialized by mmap_lock &
					  * page_table_lock */
	struct anon_vma *anon_vma;	/* Serialized by page_table_lock */
};
";

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Writes the files of a kernel that has everything which features.list names.
fn write_kernel(tree: &Path) {
    let list = fs::read_to_string(checkout().join("src/helpers/features.list")).unwrap();
    for line in list.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some("need") => {}
            Some("have") => assert!(words.next().is_some(), "{line}"),
            _ => continue,
        }
        let place = words.next().unwrap();
        let (file, structure) = match place.split_once(':') {
            Some((file, structure)) => (file, Some(structure)),
            None => (place, None),
        };
        let words: Vec<_> = words.map(|word| word.replace('+', " ")).collect();
        let text = match structure {
            Some(name) => format!("struct {name} {{\n\t{};\n}};\n", words.join(";\n\t")),
            None => format!("{}\n", words.join("\n")),
        };
        let path = tree.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

/// Reads Kbuild with such headers: none if it goes on, or what it says.
fn complaint(test: &str, rmap: &str, mm_types: &str) -> Option<String> {
    let tree = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&tree);
    write_kernel(&tree);
    let headers = tree.join("include/linux");
    fs::write(headers.join("rmap.h"), rmap).unwrap();
    fs::write(headers.join("mm_types.h"), mm_types).unwrap();
    let makefile = format!(
        "include {}\nread: ; @echo read\n",
        checkout().join("Kbuild").display()
    );
    fs::write(tree.join("Makefile"), makefile).unwrap();
    let output = Command::new("make")
        .args(["-s", "-C"])
        .arg(&tree)
        .arg(format!("src={}", checkout().display()))
        .arg(format!("srctree={}", tree.display()))
        .arg(format!("objtree={}", tree.display()))
        .args(["KERNELRELEASE=9.9.9", "read"])
        .output()
        .unwrap();
    let (out, errors) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.success(), out == b"read\n", "{errors}");
    (!output.status.success()).then_some(errors)
}

fn check_named(errors: Option<String>, lacking: &str) {
    let errors = errors.unwrap_or_else(|| panic!("{lacking} is not missed"));
    let want = format!(
        "ravel: kernel 9.9.9 is not supported, because it has no {lacking}, and ravel supports reverse mapping of \
         anonymous memory only through anon_vma.  Stop."
    );
    assert!(errors.trim_end().ends_with(&want), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_kernel_that_has_all_is_built_for() {
    assert_eq!(complaint("all", RMAP, MM_TYPES), None);
}

#[test]
fn a_kernel_without_the_structs_is_named_in_one_sentence() {
    let anon_vma = "anon_vma.root, anon_vma.rwsem, anon_vma.refcount, anon_vma.num_children, \
                    anon_vma.num_active_vmas, anon_vma.parent, anon_vma.rb_root";
    let (_, rest) = RMAP.split_once("\n\n").unwrap();
    check_named(complaint("anon_vma", rest, MM_TYPES), anon_vma);
    check_named(
        complaint("both", "struct cow_context {\n};\n", MM_TYPES),
        anon_vma,
    );
}

#[test]
fn each_member_that_is_read_is_missed() {
    for (member, lacking) in [
        (" *root;", "anon_vma.root"),
        (" rwsem;", "anon_vma.rwsem"),
        (" refcount;", "anon_vma.refcount"),
        (" num_children;", "anon_vma.num_children"),
        (" num_active_vmas;", "anon_vma.num_active_vmas"),
        (" *parent;", "anon_vma.parent"),
        (" rb_root;", "anon_vma.rb_root"),
        (" *vma;", "anon_vma_chain.vma"),
        (" *anon_vma;", "anon_vma_chain.anon_vma"),
        (" same_vma;", "anon_vma_chain.same_vma"),
        (" rb;", "anon_vma_chain.rb"),
        (" rb_subtree_last;", "anon_vma_chain.rb_subtree_last"),
    ] {
        let without = RMAP.replace(member, " other;");
        assert_ne!(without, RMAP, "{member}");
        check_named(complaint("member", &without, MM_TYPES), lacking);
    }
    for (member, lacking) in [
        (" anon_vma_chain;", "vm_area_struct.anon_vma_chain"),
        (" *anon_vma;", "vm_area_struct.anon_vma"),
    ] {
        let without = MM_TYPES.replace(member, " other;");
        assert_ne!(without, MM_TYPES, "{member}");
        check_named(complaint("mm_types", RMAP, &without), lacking);
    }
}
