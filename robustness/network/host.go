package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/guard"
)

// Host is a machine of its own, as far as the network goes: a network namespace
// with two links, one that leads to those who ask it and one to the storage.
type Host struct {
	// Address is how it is reached, Storage what it reaches the storage at: an
	// address of ours, at which a Proxy listens.
	Address, Storage string

	number int
	links  [2]netlink.Link // our ends
	do     chan func()     // for the thread that is inside
}

// numbers are those of hosts.
var numbers = struct {
	sync.Mutex
	taken [250]bool
}{}

func takeNumber() (int, error) {
	numbers.Lock()
	defer numbers.Unlock()
	n := slices.Index(numbers.taken[:], false)
	if n < 0 {
		return 0, errors.New("there are too many hosts")
	}
	numbers.taken[n] = true
	return n, nil
}

func giveNumber(n int) {
	numbers.Lock()
	defer numbers.Unlock()
	numbers.taken[n] = false
}

// NewHost makes a host. It must be removed.
func NewHost() (*Host, error) {
	n, err := takeNumber()
	if err != nil {
		return nil, err
	}
	h := &Host{number: n, do: make(chan func())}
	inside := make(chan error)
	var namespace *os.File
	guard.Go("host", func() {
		runtime.LockOSThread() // never unlocked: it ends with what it was inside
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			namespace, err = os.Open("/proc/thread-self/ns/net")
		}
		if inside <- err; err != nil {
			return
		}
		for f := range h.do {
			f()
		}
	})
	if err := <-inside; err != nil {
		giveNumber(n)
		return nil, fmt.Errorf("make a network namespace (this takes root): %w", err)
	}
	defer namespace.Close()
	err = h.Do(func() error { return up("lo") })
	for i, to := range []string{"clients", "storage"} {
		if err == nil {
			err = h.connect(i, fmt.Sprintf("%s%d", to, n), namespace, net.IPv4(10, 255, byte(n), byte(4*i)).To4())
		}
	}
	if err != nil {
		h.Remove()
		return nil, fmt.Errorf("make a host: %w", err)
	}
	h.Address, h.Storage = fmt.Sprintf("10.255.%d.2", n), fmt.Sprintf("10.255.%d.5", n)
	return h, nil
}

// connect makes a link of which our end has the first address of a network of
// four, and the host's end the second.
func (h *Host) connect(i int, name string, namespace *os.File, network net.IP) error {
	peer := "eth" + fmt.Sprint(i)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer, PeerNamespace: netlink.NsFd(int(namespace.Fd()))}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	h.links[i] = link
	if err := address(name, network, 1); err != nil {
		return err
	}
	return h.Do(func() error { return address(peer, network, 2) })
}

func address(name string, network net.IP, last byte) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	ip := net.IPv4(network[0], network[1], network[2], network[3]+last)
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(30, 32)}}); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Do calls f on the host. Programs that f starts run there.
func (h *Host) Do(f func() error) error {
	result := make(chan error)
	h.do <- func() { result <- f() }
	return <-result
}

// Part takes the link to the storage down: what is sent is lost, and nobody is
// told. Join takes it up again.
func (h *Host) Part() error { return netlink.LinkSetDown(h.links[1]) }

// Join ends what Part began.
func (h *Host) Join() error { return netlink.LinkSetUp(h.links[1]) }

// Remove takes the host away; its programs must have ended.
func (h *Host) Remove() {
	for _, link := range h.links {
		if link != nil {
			_ = netlink.LinkDel(link) // it goes with its other end too
		}
	}
	close(h.do)
	giveNumber(h.number)
}
