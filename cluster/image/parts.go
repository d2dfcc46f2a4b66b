package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File copies a file of this machine.
type File struct {
	From, To string
	Mode     fs.FileMode // 0 means 0755
}

// Key implements Part: the size and time of the file stand for its contents.
func (f File) Key() (string, error) {
	info, err := os.Stat(f.From)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("file %+v %d %d", f, info.Size(), info.ModTime().UnixNano()), nil
}

// Write implements Part.
func (f File) Write(root string) error {
	in, err := os.Open(f.From)
	if err != nil {
		return err
	}
	defer in.Close()
	to := filepath.Join(root, f.To)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	mode := f.Mode
	if mode == 0 {
		mode = 0o755
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Chmod(to, mode) // the umask must not have a say
}

// Text writes a file with given contents.
type Text struct {
	To, Content string
	Mode        fs.FileMode // 0 means 0644
}

// Key implements Part.
func (t Text) Key() (string, error) { return fmt.Sprintf("text %+v", t), nil }

// Write implements Part.
func (t Text) Write(root string) error {
	to := filepath.Join(root, t.To)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	mode := t.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := os.WriteFile(to, []byte(t.Content), mode); err != nil {
		return err
	}
	return os.Chmod(to, mode)
}

// Link makes a symbolic link.
type Link struct{ To, Target string }

// Key implements Part.
func (l Link) Key() (string, error) { return fmt.Sprintf("link %+v", l), nil }

// Write implements Part.
func (l Link) Write(root string) error {
	to := filepath.Join(root, l.To)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.Symlink(l.Target, to)
}

// Folder makes an empty folder.
type Folder struct {
	To   string
	Mode fs.FileMode // with fs.ModeSticky for /tmp
}

// Key implements Part.
func (f Folder) Key() (string, error) { return fmt.Sprintf("folder %+v", f), nil }

// Write implements Part.
func (f Folder) Write(root string) error {
	to := filepath.Join(root, f.To)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return os.Chmod(to, f.Mode)
}

// Accounts are the users and groups every image of packages needs.
var Accounts = []Part{
	Text{To: "etc/passwd", Content: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	Text{To: "etc/group", Content: "root:x:0:\nnogroup:x:65534:\n"},
	Folder{To: "tmp", Mode: 0o777 | fs.ModeSticky},
	Folder{To: "root", Mode: 0o700},
}
