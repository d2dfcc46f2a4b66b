package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// kernelSettings are what pods and services need of the network namespace a
// node lives in.
var kernelSettings = []struct {
	file, value string
	optional    bool // the kernel may lack what the setting is about
}{
	{file: "/proc/sys/net/ipv4/ip_forward", value: "1"},
	// Node ports and host ports answer on 127.0.0.1 too.
	{file: "/proc/sys/net/ipv4/conf/all/route_localnet", value: "1"},
	// Packets between pods of one bridge pass iptables, as Services need.
	{file: "/proc/sys/net/bridge/bridge-nf-call-iptables", value: "1", optional: true},
	// A containerd, its shims and the kubelet each watch files.
	{file: "/proc/sys/fs/inotify/max_user_instances", value: "8192", optional: true},
}

func setKernel() error {
	for _, s := range kernelSettings {
		old, err := os.ReadFile(s.file)
		if errors.Is(err, fs.ErrNotExist) && s.optional {
			continue
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(old)) == s.value {
			continue
		}
		if err := os.WriteFile(s.file, []byte(s.value), 0o644); err != nil && !s.optional {
			return fmt.Errorf("set %s to %s: %w", s.file, s.value, err)
		}
	}
	return nil
}
