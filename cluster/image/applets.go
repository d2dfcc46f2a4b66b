package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Applets makes a link for every command that a busybox offers.
type Applets struct {
	// Program is the busybox, which an earlier part put into the tree.
	Program string
}

// Key implements Part.
func (a Applets) Key() (string, error) { return fmt.Sprintf("applets %+v", a), nil }

// Write implements Part.
func (a Applets) Write(root string) error {
	out, err := exec.Command(filepath.Join(root, a.Program), "--list-full").Output()
	if err != nil {
		return fmt.Errorf("applets of %s: %w", a.Program, err)
	}
	for _, applet := range strings.Fields(string(out)) {
		if applet == a.Program {
			continue
		}
		link := filepath.Join(root, applet)
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return err
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
