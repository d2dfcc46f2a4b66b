package network_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/robustness/network"
)

func TestMain(m *testing.M) {
	if err := network.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// echo answers what it is sent, at an address.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

// ask sends a byte and waits for it to come back.
func ask(c net.Conn, patience time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// What is sent while the link is down arrives when it is up again.
func TestPart(t *testing.T) {
	h, err := network.NewHost()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Remove()
	p, err := network.NewProxy(h.Storage+":0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var c net.Conn
	if err := h.Do(func() (err error) { c, err = net.Dial("tcp", p.Address()); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ask(c, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := h.Part(); err != nil {
		t.Fatal(err)
	}
	if err := ask(c, 300*time.Millisecond); err == nil {
		t.Error("an answer came over a link that is down")
	}
	if err := h.Join(); err != nil {
		t.Fatal(err)
	}
	if err := ask(c, time.Minute); err != nil {
		t.Errorf("with the link up again: %v", err)
	}
}

// Connections are reset before a message, or before its answer, and all at once.
func TestProxy(t *testing.T) {
	p, err := network.NewProxy("127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	for _, answered := range []bool{false, true} {
		c, called := dial(), 0
		sprung := p.At(3, answered, func() { called++ })
		for n := 1; n <= 3; n++ {
			if err := ask(c, time.Minute); (err == nil) != (n < 3) {
				t.Errorf("answered %v: message %d: %v", answered, n, err)
			}
		}
		if <-sprung; called != 1 {
			t.Errorf("answered %v: called %d times", answered, called)
		}
	}
	c := dial()
	p.Hold()
	if err := ask(c, 100*time.Millisecond); err == nil {
		t.Error("an answer came by a proxy that holds all")
	}
	p.Release()
	if err := ask(c, time.Minute); err != nil {
		t.Errorf("released: %v", err)
	}
	p.Cut()
	if err := ask(c, time.Minute); err == nil {
		t.Error("an answer came over a connection that was cut")
	}
}
