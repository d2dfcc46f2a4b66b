package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Applets makes a link in /bin for every command that a busybox offers, as its
// own installer does when asked for one folder.
type Applets struct {
	// Program is the busybox, which an earlier part put into the tree.
	Program string
}

// Key implements Part.
func (a Applets) Key() (string, error) { return fmt.Sprintf("applets in bin %+v", a), nil }

// Write implements Part.
func (a Applets) Write(root string) error {
	out, err := exec.Command(filepath.Join(root, a.Program), "--list").Output()
	if err != nil {
		return fmt.Errorf("applets of %s: %w", a.Program, err)
	}
	for _, applet := range strings.Fields(string(out)) {
		link := filepath.Join(root, "bin", applet)
		if link == filepath.Join(root, a.Program) {
			continue
		}
		if err := os.RemoveAll(link); err != nil {
			return err
		}
		if err := os.Symlink("/"+a.Program, link); err != nil {
			return err
		}
	}
	return nil
}
