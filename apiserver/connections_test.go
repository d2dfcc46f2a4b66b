package apiserver_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestConnectionsOfOneAddress opens more than one address can have.
func TestConnectionsOfOneAddress(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Limits = apiserver.Limits{MaxConnections: 8} })
	address := fmt.Sprintf("127.0.0.1:%d", serveOn(t, s, "0.0.0.0:0").(*net.TCPAddr).Port)
	// alive reports whether the server answers on a new connection from an address.
	alive := func(from string) (net.Conn, bool) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") // an error shows below
		line := make([]byte, len("HTTP/1.1 200"))
		_, err = io.ReadFull(conn, line)
		return conn, err == nil && string(line[9:]) == fmt.Sprint(http.StatusOK)
	}
	var first net.Conn
	for i := range 4 {
		conn, ok := alive("127.0.0.1")
		if !ok {
			t.Fatalf("connection %d is refused", i)
		}
		first = conn
	}
	if _, ok := alive("127.0.0.1"); ok {
		t.Error("one address has more than half of the connections")
	}
	if _, ok := alive("127.0.0.2"); !ok {
		t.Error("another address has none")
	}
	first.Close()
	eventually(t, "room for another after one was closed", func() bool { _, ok := alive("127.0.0.1"); return ok })
}
