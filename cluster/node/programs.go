package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tools are the programs that a node, or an image made for it, takes from the
// folder of tools.
var tools = []string{
	"containerd", "containerd-shim-runc-v2", "ctr",
	"cni/bridge", "cni/host-local", "cni/loopback", "cni/portmap",
	"pause", "coredns",
}

// programs are those that the machine has to bring; their Debian packages have
// the same names.
var programs = []string{"runc", "iptables"}

// CheckPrograms says which programs a node would lack.
func CheckPrograms(dir string) error {
	var errs []error
	var missing []string
	for _, name := range tools {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		errs = append(errs, fmt.Errorf("%s lacks %s (make tools builds them; --tools names another folder)", dir, strings.Join(missing, ", ")))
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			errs = append(errs, fmt.Errorf("nodes need %s (the Debian package of that name): %w", name, err))
		}
	}
	return errors.Join(errs...)
}
