package ipvs

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// TestBatch has the kernel do more requests than go into a message, and refuse more
// than it has room to complain about.
func TestBatch(t *testing.T) {
	const many = 5000
	n := nettest.New(t)
	numbered := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }
	var lo netlink.Link
	change := func(f func(b *routes)) (err error) {
		n.Do(t, func() {
			b := newRoutes(lo.Attrs().Index)
			f(b)
			if err = b.commit(); err == nil {
				err = b.commit() // of nothing
			}
		})
		return err
	}
	count := func() int {
		t.Helper()
		var addrs map[netip.Addr]bool
		var err error
		n.Do(t, func() { addrs, err = routed(lo) })
		if err != nil {
			t.Fatal(err)
		}
		return len(addrs)
	}
	var err error
	n.Do(t, func() { lo, err = netlink.LinkByName("lo") })
	if err != nil {
		t.Fatal(err)
	}
	err = change(func(b *routes) {
		for i := range many {
			b.add(numbered(i))
		}
	})
	if got := count(); err != nil || got != many {
		t.Fatalf("got %d routes (%v), want %d", got, err, many)
	}
	err = change(func(b *routes) {
		for i := range many + 10 { // some are not there
			b.delete(numbered(i))
		}
	})
	if got := count(); err != nil || got != 0 {
		t.Fatalf("got %d routes (%v), want none", got, err)
	}
	err = change(func(b *routes) {
		b.device = 1 << 20
		for i := range many {
			b.add(numbered(i))
		}
	})
	if !errors.Is(err, unix.ENODEV) || !strings.HasPrefix(err.Error(), "route a virtual server's address") {
		t.Errorf("to an interface that does not exist: got %v", err)
	}
}
