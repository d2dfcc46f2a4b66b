package iptables

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

// enterNamespace moves the test's thread, and so the programs it starts, into a
// new network namespace.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
}
