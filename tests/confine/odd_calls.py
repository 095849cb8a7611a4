"""Random calls on names and attributes, odd ones among them: `odd_calls.py SEED COUNT`, in an empty folder.

Prints what each came to, and the tree at the end. The same seed makes the same calls.
"""
import ctypes, errno, os, random, stat, sys

seed, count = int(sys.argv[1]), int(sys.argv[2])
pick = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
AT = {"renameat": 264, "renameat2": 316, "linkat": 265, "unlinkat": 263, "mkdirat": 258, "mknodat": 259,
      "symlinkat": 266, "truncate": 76, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "fchown": 93,
      "fchownat": 260, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
      "lremovexattr": 198, "fremovexattr": 199}
OLD = {"rename": 82, "link": 86, "unlink": 87, "rmdir": 84, "mkdir": 83, "mknod": 133, "symlink": 88,
       "chmod": 90, "chown": 92, "lchown": 94}
assert X86, "call numbers of x86_64"
NUMBERS = {**AT, **OLD}
FDCWD = -100

top = os.getcwd()
TOP = os.dup2(os.open(".", os.O_RDONLY), 75)
for name in ("d", "d/e", "d2", "full", "sticky", "shut"):
    os.mkdir(name)
for name in ("a", "b", "d/f", "full/x", "d/e/g"):
    with open(name, "w") as made:
        made.write("0123456789")
os.symlink("d", "todir"); os.symlink("a", "tofile"); os.symlink("nowhere", "dangling")
os.symlink("loop", "loop"); os.symlink(top + "/d2", "absolute"); os.symlink("todir/e", "chain")
os.chmod("sticky", 0o1777); os.chmod("shut", 0)
for number in range(45):
    os.symlink(f"n{number + 1}", f"n{number}")
os.mkdir("n45")
folder, plain = os.open("d", os.O_RDONLY), os.open("a", os.O_RDONLY)
handle, file_handle = os.open("d2", os.O_PATH), os.open("b", os.O_PATH)
pipe, _ = os.pipe()
FIXED = [os.dup2(fd, number) for fd, number in ((folder, 70), (plain, 71), (handle, 72), (file_handle, 73), (pipe, 74))]
os.closerange(3, 60)
FOLDERS = [FDCWD] * 6 + FIXED + [999, -5, -1]
NAMES = ["a", "b", "c", "d", "d2", "e", "f", "g", "new", "n1", "n6", "todir", "tofile", "dangling", "loop", "absolute", "chain",
         "sticky/s", "shut/s", "full", "d/e", "d/f", "d/new", "d2/new", "todir/f", "chain/g", "chain/new", "absolute/new"]
ODD = ["", "/", "//", ".", "..", "./", "a/", "d/", "d//", "d/.", "d/..", "d/../d2", "a/x", "a/.", "nowhere/x", "new/",
       "tofile/", "todir/", "dangling/", "dangling/x", "loop/x", "x" * 255, "x" * 256, "d/" + "y" * 255, "./" * 2046 + "abc",
       "./" * 2047 + "ab", "z/" * 3000, "\udcff\n\x1b[1m", "/proc/self/cwd/c", "/proc/self/cwd/d/new", "/proc/self/fd/70/f",
       "/proc/self/fd/70/new", "/proc/self/fd/71", "/proc/self/fd/73", "/dev/fd/70/new", "/proc/thread-self/cwd/c",
       "/proc/self/root" + top + "/c", "/proc/self/fd/999/x", "/proc/self/fd/74", "/proc/self/nothing", top + "/c",
       top + "/../" + os.path.basename(top) + "/d/f", "/proc/self/task/../cwd/c", "//" + top + "//d///f"]
BAD = [0, 1, 0x7fff_0000_0000_0000, 0xffff_8000_0000_0000]
keep = []


def path():
    chance = pick.random()
    if chance < 0.03:
        return pick.choice(BAD)
    text = pick.choice(NAMES) if chance < 0.7 else pick.choice(ODD)
    # Up to the end of a page, so that a read beyond it fails.
    buffer = ctypes.create_string_buffer(text.encode("utf8", "surrogateescape"))
    keep.append(buffer)
    return buffer


def base():
    return pick.choice(FOLDERS)


def number():
    # -100 is no descriptor of fsetxattr(2), and Linux 6.13 takes it for the working directory.
    return pick.choice(FIXED + [999, -5, -1])


def opened():
    # Of a bad descriptor and a bad name kernels tell the one or the other.
    return pick.choice([70, 71, 74])


def flags(*known):
    chance = pick.random()
    if chance < 0.05:
        return 1 << 30
    return pick.choice((0, 0) + known)


def mode():
    return pick.choice([0o644, 0o755, 0o700, 0o777, 0o7777, 0o1777, 0o4755, 0, 0o600])


def node():
    return pick.choice([0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFLNK, 0o170000]) | mode()


def owner():
    return pick.choice([-1, -1, os.getuid(), 0])


def xattr():
    name = pick.choice([b"user.one", b"user.two", b"trusted.x", b"security.x", b"system.x", b"nonsense", b"", b"user." + b"x" * 250, b"user." + b"x" * 251])
    return ctypes.create_string_buffer(name)


def set_value():
    size = pick.choice([0, 3, 3, 200, 70_000])
    return (xattr(), pick.choice([ctypes.create_string_buffer(b"v" * size)] * 5 + [1]), size, flags(1, 2, 3))


NOFOLLOW, EMPTY, FOLLOW, REMOVEDIR = 0x100, 0x1000, 0x400, 0x200
ARGUMENTS = {
    "rename": lambda: (path(), path()), "renameat": lambda: (base(), path(), base(), path()),
    "renameat2": lambda: (base(), path(), base(), path(), flags(1, 2, 2, 3, 4, 6)),
    "link": lambda: (path(), path()), "linkat": lambda: (base(), path(), base(), path(), flags(FOLLOW)),
    "unlink": lambda: (path(),), "rmdir": lambda: (path(),), "unlinkat": lambda: (base(), path(), flags(REMOVEDIR)),
    "mkdir": lambda: (path(), mode()), "mkdirat": lambda: (base(), path(), mode()),
    "mknod": lambda: (path(), node(), 0x103), "mknodat": lambda: (base(), path(), node(), 0),
    "symlink": lambda: (path(), path()), "symlinkat": lambda: (path(), base(), path()),
    "truncate": lambda: (path(), pick.choice([0, 5, 100, -1])),
    "chmod": lambda: (path(), mode()), "fchmod": lambda: (number(), mode()), "fchmodat": lambda: (base(), path(), mode()),
    "fchmodat2": lambda: (base(), path(), mode(), flags(NOFOLLOW, EMPTY)),
    "chown": lambda: (path(), owner(), owner()), "lchown": lambda: (path(), owner(), owner()),
    "fchown": lambda: (number(), owner(), owner()), "fchownat": lambda: (base(), path(), owner(), owner(), flags(NOFOLLOW, EMPTY)),
    "setxattr": lambda: (path(), *set_value()), "lsetxattr": lambda: (path(), *set_value()),
    "fsetxattr": lambda: (opened(), *set_value()), "removexattr": lambda: (path(), xattr()),
    "lremovexattr": lambda: (path(), xattr()), "fremovexattr": lambda: (opened(), xattr()),
}


def shown(argument):
    value = argument.value[:60] if isinstance(argument, ctypes.Array) else argument
    return str(value).replace(top, "TOP")


for step in range(count):
    if pick.random() < 0.02:
        os.umask(pick.choice([0, 0o22, 0o77, 0o27]))
    if pick.random() < 0.02:
        try:
            os.chdir(pick.choice([top, top, top + "/d2"]))
        except OSError:
            pass
    call = pick.choice(list(ARGUMENTS))
    arguments = ARGUMENTS[call]()
    ctypes.set_errno(0)
    given = [ctypes.c_void_p(one) if isinstance(one, int) and one > 2**31 else one for one in arguments]
    answer = libc.syscall(NUMBERS[call], *given)
    name = errno.errorcode[ctypes.get_errno()] if answer else "ok"
    print(step, call, *map(shown, arguments), "=", name)

os.fchmod(TOP, 0o700)
for above, folders, files in sorted(os.walk(os.fsencode(top))):
    for name in sorted(folders + files):
        whole = os.path.join(above, name)
        try:
            found = os.lstat(whole)
        except OSError as error:
            print(whole[len(top):], errno.errorcode[error.errno])
            continue
        link = os.readlink(whole).replace(os.fsencode(top), b"TOP") if stat.S_ISLNK(found.st_mode) else b""
        names = sorted(os.listxattr(whole, follow_symlinks=False))
        print(whole[len(top):], oct(found.st_mode), found.st_nlink, found.st_uid, found.st_gid,
              found.st_size if stat.S_ISREG(found.st_mode) else "", link, names)
