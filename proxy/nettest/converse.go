package nettest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// Echo listens inside until the test ends. Whoever connects hears what they say.
func (n *Namespace) Echo(t testing.TB, addr string) {
	t.Helper()
	n.ServeTCP(t, addr, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
}

// Conversation is a connection to an Echo that lasts.
type Conversation struct {
	Addr  string
	conn  net.Conn
	heard *bufio.Reader
	err   error // why there is none
	said  int
}

// Converse connects from inside. Whether that went well Exchange tells.
func (n *Namespace) Converse(t testing.TB, addr string) *Conversation {
	t.Helper()
	c := &Conversation{Addr: addr}
	n.Do(t, func() { c.conn, c.err = net.DialTimeout("tcp", addr, 10*time.Second) })
	if c.err == nil {
		c.heard = bufio.NewReader(c.conn)
		t.Cleanup(func() { c.conn.Close() })
	}
	return c
}

// Exchange says something and waits until it is heard. After an error that was a lack of time the conversation can go on:
// what was said is heard later.
func (c *Conversation) Exchange(wait time.Duration) error {
	if c.err != nil {
		return c.err
	}
	c.said++
	line := fmt.Sprintln("line", c.said)
	_ = c.conn.SetDeadline(time.Now().Add(wait))
	if _, err := io.WriteString(c.conn, line); err != nil {
		return err
	}
	for {
		if heard, err := c.heard.ReadString('\n'); err != nil || heard == line {
			return err
		}
	}
}
