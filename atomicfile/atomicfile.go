// Package atomicfile writes files in folders where others may write too, as root does that is told to put a
// file into /tmp or into somebody's home.
//
// A file is replaced as a whole: its new contents get a name that nobody can guess and that was not there
// before, and then take the place of whatever has the final name, be it a file of another user or a link. No
// link is followed and no file that was there is written to or given another mode.
package atomicfile

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Write makes name a file of the caller's with data and exactly this mode.
func Write(name string, data []byte, mode fs.FileMode) error {
	return Replace(name, mode, func(to *os.File) error {
		_, err := io.Copy(to, bytes.NewReader(data))
		return err
	})
}

// Replace is Write with what write writes. When write fails, nothing has changed. The file is on disk when
// Replace returns.
func Replace(name string, mode fs.FileMode, write func(to *os.File) error) error {
	// The folder is looked up once, so that it cannot become another one in between.
	folder, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer folder.Close()
	base := filepath.Base(name)
	// What a folder is watched for (*.conf, *.tar) begins and ends otherwise.
	temporary := "." + base + "." + rand.Text()
	file, err := folder.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = errors.Join(write(file), file.Chmod(mode), file.Sync(), file.Close())
	if err == nil {
		err = folder.Rename(temporary, base)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), folder.Remove(temporary))
	}
	return sync(folder)
}

// sync makes the names in a folder last.
func sync(folder *os.Root) error {
	dir, err := folder.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// ErrNotOurs is that of a folder in which somebody else has a say.
var ErrNotOurs = errors.New("others may write there")

// Folder makes a folder and those above it, if need be, and makes sure that nobody but the caller, root, or
// the user who called sudo can change what is in it: it may have been made by somebody else who guessed its
// name.
func Folder(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner != 0 && owner != os.Geteuid() && !calledSudo(owner) {
		return fmt.Errorf("folder %s belongs to user %d: %w", dir, owner, ErrNotOurs)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("folder %s has mode %#o: %w", dir, info.Mode().Perm(), ErrNotOurs)
	}
	return nil
}

func calledSudo(user int) bool {
	id, err := strconv.Atoi(os.Getenv("SUDO_UID"))
	return err == nil && os.Geteuid() == 0 && id == user
}
