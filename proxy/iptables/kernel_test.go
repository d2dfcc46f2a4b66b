package iptables

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// saved are the rules of a namespace, without counters and comments.
func saved(t *testing.T, n *nettest.Namespace) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(n.Run(t, "iptables-save"), "")
}

func newBackend(t *testing.T) *Backend {
	t.Helper()
	if err := Available(); err != nil {
		t.Fatal(err)
	}
	return New()
}

// apply has a backend apply a table inside a namespace.
func apply(t *testing.T, n *nettest.Namespace, b *Backend, table *proxy.Table) {
	t.Helper()
	var err error
	n.Do(t, func() { err = b.Apply(t.Context(), table) })
	if err != nil {
		t.Fatal(err)
	}
}

func intact(t *testing.T, n *nettest.Namespace, b *Backend) bool {
	t.Helper()
	var is bool
	var err error
	n.Do(t, func() { is, err = b.Intact(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// TestKernel applies tables to a network namespace of its own and asks the
// kernel what it has.
func TestKernel(t *testing.T) {
	n := nettest.New(t)
	n.Run(t, "iptables", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP") // another program's
	before := saved(t, n)
	b := newBackend(t)
	udp := webService()
	udp.Protocol = corev1.ProtocolUDP
	for _, step := range []*proxy.Table{table(webService()), table(webService(), udp), table(udp), table()} {
		apply(t, n, b, step)
		if !intact(t, n, b) {
			t.Errorf("not intact as applied:\n%s", saved(t, n))
		}
		fresh := nettest.New(t)
		apply(t, fresh, newBackend(t), step)
		got := strings.ReplaceAll(saved(t, n), "-A FORWARD -s 192.0.2.1/32 -j DROP\n", "")
		if want := saved(t, fresh); sorted(got) != sorted(want) {
			t.Errorf("got\n%s\nwant, as in a new namespace,\n%s", got, want)
		}
	}
	// A second backend takes over what the first left, then clears it away.
	second := newBackend(t)
	apply(t, n, second, table(webService()))
	var err error
	n.Do(t, func() { err = second.Remove(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	empty := regexp.MustCompile(`(?m)^(\*|:|COMMIT).*\n`)
	if after := saved(t, n); empty.ReplaceAllString(after, "") != empty.ReplaceAllString(before, "") || strings.Contains(after, "KUBE-") {
		t.Errorf("after Remove:\n%s\nbefore:\n%s", after, before)
	}
}

// sorted is text with its lines in order: chains are saved in no certain one.
func sorted(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// TestOtherPrograms has other programs damage the rules: it is noticed, and the
// next Apply makes them as they were.
func TestOtherPrograms(t *testing.T) {
	for name, damage := range map[string][]string{
		"flush filter":      {"iptables", "-F"},
		"flush nat":         {"iptables", "-t", "nat", "-F"},
		"delete chains":     {"sh", "-c", "iptables -t nat -F && iptables -t nat -X"},
		"restore a backup":  {"sh", "-c", "printf '*filter\n:INPUT ACCEPT\n:FORWARD DROP\n:OUTPUT ACCEPT\nCOMMIT\n*nat\n:PREROUTING ACCEPT\nCOMMIT\n' | iptables-restore"},
		"delete a hook":     {"sh", "-c", "iptables-save -t nat | sed -n 's/^-A \\(OUTPUT .*KUBE-SERVICES\\)$/iptables -t nat -D \\1/p' | sh"},
		"delete a rule":     {"iptables", "-t", "nat", "-D", "KUBE-POSTROUTING", "1"},
		"insert a rule":     {"iptables", "-t", "nat", "-I", "KUBE-SERVICES", "-j", "ACCEPT"},
		"flush one chain":   {"iptables", "-F", "KUBE-FORWARD"},
		"all tables at all": {"sh", "-c", "for t in raw mangle nat filter; do iptables -t $t -F; iptables -t $t -X; done"},
	} {
		t.Run(name, func(t *testing.T) {
			n := nettest.New(t)
			b := newBackend(t)
			apply(t, n, b, table(webService()))
			before := saved(t, n)
			n.Run(t, damage[0], damage[1:]...)
			if saved(t, n) == before {
				t.Fatal("there is no damage")
			}
			if intact(t, n, b) {
				t.Error("the damage was not noticed")
			}
			apply(t, n, b, table(webService()))
			after := saved(t, n)
			if name == "restore a backup" {
				after = strings.Replace(after, ":FORWARD DROP", ":FORWARD ACCEPT", 1) // its own business
			}
			own := regexp.MustCompile(`(?m)^(\*|:[A-Z]+ |COMMIT).*\n`) // tables and chains of the kernel come and go
			if sorted(own.ReplaceAllString(after, "")) != sorted(own.ReplaceAllString(before, "")) {
				t.Errorf("got\n%s\nwant\n%s", after, before)
			}
			if !intact(t, n, b) {
				t.Error("not intact after it was made anew")
			}
		})
	}
}

// TestForeignJumps leaves alone what other programs add around the chains.
func TestForeignJumps(t *testing.T) {
	n := nettest.New(t)
	b := newBackend(t)
	apply(t, n, b, table(webService()))
	n.Run(t, "iptables", "-I", "INPUT", "-s", "192.0.2.7", "-j", "KUBE-SERVICES")
	n.Run(t, "iptables", "-N", "MINE")
	if !intact(t, n, b) {
		t.Error("a rule that is not ours counts as damage")
	}
}

// TestLock has another program hold the lock of the tables, which only one of
// the two kinds of iptables takes: Apply waits for it and ends with its context.
func TestLock(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("no iptables-legacy")
	}
	legacy := t.TempDir()
	for _, program := range []string{"iptables", "iptables-save", "iptables-restore"} {
		path, err := exec.LookPath(strings.Replace(program, "iptables", "iptables-legacy", 1))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(legacy, program)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", legacy+":"+os.Getenv("PATH"))
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(legacy, "lock"))
	lock, err := os.Create(filepath.Join(legacy, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	n := nettest.New(t)
	b := newBackend(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go n.Do(t, func() { done <- b.Apply(ctx, table(webService())) })
	waiting(t, lock.Name())
	cancel()
	if err := <-done; err == nil {
		t.Error("Apply got past a lock that is held")
	}
	ctx = t.Context()
	go n.Do(t, func() { done <- b.Apply(ctx, table(webService())) })
	waiting(t, lock.Name())
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after the lock was given back: %v", err)
	}
	if !intact(t, n, b) {
		t.Error("not intact after the lock was given back")
	}
}

// waiting returns once a program has the lock file open that this process holds.
func waiting(t *testing.T, lock string) {
	t.Helper()
	for range 20000 {
		files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
		for _, file := range files {
			if strings.HasPrefix(file, fmt.Sprintf("/proc/%d/", os.Getpid())) {
				continue
			}
			if to, err := os.Readlink(file); err == nil && to == lock {
				return
			}
		}
	}
	t.Fatal("nobody asks for the lock")
}
