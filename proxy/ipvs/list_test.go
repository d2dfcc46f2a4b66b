package ipvs

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What a kernel answered (Linux 6.12), after the header of generic netlink and without the statistics: servers at
// 10.96.0.1:443 by TCP, persistent, and at [fd96::7]:80 by UDP, one for packets with the mark 1; then an endpoint of
// each of the first two.
const (
	serverFour   = "540001800600010002000000060002000600000014000300" + "0a600001000000000000000000000000" + "0600040001bb0000" + "0700060072720000" + "0c00070003000000ffffffff" + "080008003c000000" + "08000900ffffffff"
	serverSix    = "54000180060001000a000000060002001100000014000300" + "fd960000000000000000000000000007" + "0600040000500000" + "070006006d680000" + "0c00070012000000ffffffff" + "0800080000000000" + "0800090080000000"
	serverMark   = "380001800600010002000000" + "0800050001000000" + "0700060072720000" + "0c00070002000000ffffffff" + "0800080000000000" + "08000900ffffffff"
	endpointFour = "480002801400010" + "0c0000201000000000000000000000000" + "06000200192b0000" + "0800030000000000" + "0800040001000000" + "0800070002000000" + "0800080003000000" + "06000b0002000000"
	endpointSix  = "480002801400010" + "0fd440000000000010000000000000005" + "060002001f900000" + "0800030000000000" + "0800040000000000" + "0800070000000000" + "0800080000000000" + "06000b000a000000"
)

// TestListed reads servers from what the kernel answers.
func TestListed(t *testing.T) {
	list := make(map[place]*server)
	for _, text := range []string{serverFour, serverSix, serverMark} {
		if err := listed(list, bytesOf(t, text)); err != nil {
			t.Error(err)
		}
	}
	want := map[place]server{
		tcp("10.96.0.1:443"):                     {scheduler: "rr", persistent: true},
		{unix.IPPROTO_UDP, addr("[fd96::7]:80")}: {scheduler: "mh"},
	}
	for at, w := range want {
		if got := list[at]; got == nil || !got.equal(&w) {
			t.Errorf("%v: got %+v, want %+v", at, got, w)
		}
	}
	if len(list) != len(want) {
		t.Errorf("got %d servers, want %d", len(list), len(want))
	}
}

// TestParseDestination reads endpoints from what the kernel answers.
func TestParseDestination(t *testing.T) {
	for _, test := range []struct {
		text string
		of   place
		addr netip.AddrPort
		want destination
	}{
		{endpointFour, tcp("10.96.0.1:443"), addr("192.0.2.1:6443"), destination{weight: 1, flows: 5}},
		{endpointSix, tcp("[fd96::7]:80"), addr("[fd44:0:0:1::5]:8080"), destination{}},
	} {
		at, got, err := parseDestination(bytesOf(t, test.text), test.of)
		if err != nil || at != test.addr || got != test.want {
			t.Errorf("got %v %+v (%v), want %v %+v", at, got, err, test.addr, test.want)
		}
	}
}

func bytesOf(t testing.TB, text string) []byte {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// said is a message of the kernel with a body.
func said(kind, flags uint16, body ...byte) []byte {
	message := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	message = binary.NativeEndian.AppendUint16(message, kind)
	message = binary.NativeEndian.AppendUint16(message, flags)
	return append(append(message, make([]byte, 8)...), body...)
}

// TestAnswer finds the end of an answer, and what went wrong.
func TestAnswer(t *testing.T) {
	const family = 0x20
	piece := said(family, unix.NLM_F_MULTI, 1, 1, 0, 0)
	failure := func(kind uint16, errno unix.Errno) []byte {
		return said(kind, 0, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))...)
	}
	for name, test := range map[string]struct {
		messages []byte
		told     int
		last     bool
		err      error
	}{
		"pieces":                {slices.Concat(piece, piece), 2, false, nil},
		"pieces and the end":    {slices.Concat(piece, failure(unix.NLMSG_DONE, 0)), 1, true, nil},
		"the end fails":         {slices.Concat(piece, failure(unix.NLMSG_DONE, unix.ENOMEM)), 1, true, unix.ENOMEM},
		"a message alone":       {said(family, 0, 1, 1, 0, 0), 1, true, nil},
		"what is not there":     {failure(unix.NLMSG_ERROR, unix.ESRCH), 0, true, unix.ESRCH},
		"cut":                   {said(family, 0, 1, 1, 0, 0, 0, 0, 0, 0)[:22], 0, true, errCut},
		"nothing":               {nil, 0, false, nil},
		"a length that is none": {slices.Concat(make([]byte, 4), piece), 0, true, errCut},
	} {
		told := 0
		last, err := answer(test.messages, func([]byte) error { told++; return nil })
		if told != test.told || last != test.last || !errors.Is(err, test.err) {
			t.Errorf("%s: told of %d, last %v, error %v; want %d, %v, %v", name, told, last, err, test.told, test.last, test.err)
		}
	}
}

// FuzzAnswer reads anything without harm.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{serverFour, serverSix, serverMark, endpointFour, endpointSix} {
		f.Add(said(0x20, unix.NLM_F_MULTI, append([]byte{1, 1, 0, 0}, bytesOf(f, text)...)...))
	}
	f.Fuzz(func(t *testing.T, messages []byte) {
		list := make(map[place]*server)
		_, _ = answer(messages, func(attributes []byte) error {
			if at, _, err := parseDestination(attributes, tcp("10.96.0.1:443")); err == nil && !at.IsValid() {
				t.Errorf("an endpoint at %v", at)
			}
			return listed(list, attributes)
		})
		for at, found := range list {
			if !at.addr.IsValid() || found == nil {
				t.Errorf("listed %v: %+v", at, found)
			}
		}
	})
}
