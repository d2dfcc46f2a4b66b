package apiserver_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// from opens a connection that has an address of the loopback, and closes it with the test.
func from(t *testing.T, source, address string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 30 * time.Second}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// lists reports whether the administrator gets a list over a new connection.
func lists(t *testing.T, source, address string) bool {
	t.Helper()
	conn := from(t, source, address)
	io.WriteString(conn, "GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer admin-token\r\n\r\n") // an error shows below
	answer, err := io.ReadAll(conn)
	return err == nil && bytes.HasPrefix(answer, []byte("HTTP/1.1 200 OK")) && bytes.Contains(answer, []byte(`"kube-system"`))
}

// TestIdleAndSlowConnections opens 10,000 connections that say nothing, or as many as a process may have, from one address, and
// 1,000 that never end a header.
func TestIdleAndSlowConnections(t *testing.T) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	idle, slow := min(10_000, files.Cur/2), 1000
	s := apiservertest.Start(t, asAdmin)
	address := fmt.Sprintf("127.0.0.1:%d", serveOn(t, s, "0.0.0.0:0").(*net.TCPAddr).Port)
	before := runtime.NumGoroutine()
	var silent []net.Conn
	for range idle {
		silent = append(silent, from(t, "127.9.0.2", address))
	}
	if !lists(t, "127.9.0.3", address) {
		t.Fatal("who is silent keeps others out")
	}
	for i := range slow {
		conn := from(t, fmt.Sprintf("127.9.1.%d", i%200+1), address)
		fmt.Fprintf(conn, "GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nX-Slow: %d", i)
		silent = append(silent, conn)
	}
	if !lists(t, "127.9.0.3", address) {
		t.Fatal("who is slow keeps others out")
	}
	for _, conn := range silent {
		conn.Close()
	}
	eventually(t, "the end of what was begun", func() bool { return runtime.NumGoroutine() < before+50 })
}

// frames speaks HTTP/2 and reads nothing unless it is asked to.
type frames struct {
	*http2.Framer
	conn  *tls.Conn
	out   *bytes.Buffer
	block []byte // of headers
}

func newFrames(t *testing.T, address string) *frames {
	t.Helper()
	raw := connect(t, address)
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	f := &frames{conn: conn, out: new(bytes.Buffer)}
	f.Framer = http2.NewFramer(f.out, conn)
	f.out.WriteString(http2.ClientPreface)
	f.WriteSettings()
	var header bytes.Buffer
	encoder := hpack.NewEncoder(&header)
	// Without a table of fields, every stream can have the same bytes.
	encoder.SetMaxDynamicTableSizeLimit(0)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/api/v1/namespaces/default/configmaps"},
		{"authorization", "Bearer admin-token"}, {"content-type", "application/json"}} {
		encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	f.block = header.Bytes()
	return f
}

// send writes what was made. It reports whether the server still takes it.
func (f *frames) send() bool {
	_, err := f.conn.Write(f.out.Bytes())
	f.out.Reset()
	return err == nil
}

// ended reads until the server ends the connection, or nothing comes for the time that connections of tests have.
func (f *frames) ended() bool {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			wait, ok := err.(net.Error)
			return !ok || !wait.Timeout()
		}
		if _, ok := frame.(*http2.GoAwayFrame); ok {
			return true
		}
	}
}

// steady watches a number until most is called, which returns the most that it was for twenty milliseconds on end. The
// runtime counts goroutines that have ended too, while a collection of garbage frees their stacks.
func steady(t *testing.T, number func() int) (most func() int) {
	const looks = 20
	done, found := make(chan struct{}), make(chan int, 1)
	go func() {
		highest := 0
		for {
			lowest := number()
			for range looks {
				select {
				case <-done:
					found <- highest
					return
				case <-time.After(time.Millisecond):
					lowest = min(lowest, number())
				}
			}
			highest = max(highest, lowest)
		}
	}()
	end := sync.OnceValue(func() int {
		close(done)
		return <-found
	})
	t.Cleanup(func() { end() })
	return end
}

// TestFloodsOfFrames sends what costs a client little. What would pile up for it ends the connection; the server
// serves others meanwhile, and does not do more than a connection may ask for at once.
func TestFloodsOfFrames(t *testing.T) {
	for name, flood := range map[string]func(f *frames) bool{
		"rapid reset": func(f *frames) bool { // CVE-2023-44487
			for i := range 20_000 {
				id := uint32(2*i + 1)
				f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.block, EndHeaders: true})
				f.WriteRSTStream(id, http2.ErrCodeCancel)
				if i%100 == 0 && !f.send() {
					return true
				}
			}
			return !f.send()
		},
		"pings": func(f *frames) bool { // CVE-2019-9512
			for i := range 2_000_000 {
				f.WritePing(false, [8]byte{})
				if i%1000 == 0 && !f.send() {
					return true
				}
			}
			return false
		},
		"settings": func(f *frames) bool { // CVE-2019-9515
			for i := range 2_000_000 {
				f.WriteSettings()
				if i%1000 == 0 && !f.send() {
					return true
				}
			}
			return false
		},
		"headers that go on": func(f *frames) bool { // CVE-2023-45288
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.block})
			var field bytes.Buffer
			hpack.NewEncoder(&field).WriteField(hpack.HeaderField{Name: "x-long", Value: strings.Repeat("a", 16_000), Sensitive: true})
			for range 2000 {
				f.WriteContinuation(1, false, field.Bytes()[:min(field.Len(), 16_384)])
				if !f.send() {
					return true
				}
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, config, _ := listen(t, asAdmin)
			f := newFrames(t, strings.TrimPrefix(config.Host, "https://"))
			before := runtime.NumGoroutine()
			most := steady(t, func() int { return runtime.NumGoroutine() - before })
			ended := flood(f)
			if _, err := clientset(t, apiservertest.Config(s, "admin")).CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Errorf("somebody else: %v", err)
			}
			if n := most(); n > 1000 {
				t.Errorf("one connection has %d goroutines", n)
			}
			// Resets cost what requests cost, and settings are answered together: nothing piles up that the connection must end for.
			piles := name == "pings" || name == "headers that go on"
			if piles && !ended && !f.ended() {
				t.Error("the server lets it go on")
			}
			f.conn.NetConn().Close()
			eventually(t, "the end of what was begun", func() bool { return runtime.NumGoroutine() < before+50 })
		})
	}
}

// TestStreamsAtOnce begins more requests on one connection than it may have at once, and ends none of them.
func TestStreamsAtOnce(t *testing.T) {
	const begun, most = 150, 100
	_, config, _ := listen(t, asAdmin)
	f := newFrames(t, strings.TrimPrefix(config.Host, "https://"))
	for i := range begun {
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: f.block, EndHeaders: true})
	}
	if !f.send() {
		t.Fatal("the server has ended the connection")
	}
	for refused := 0; refused < begun-most; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%d of %d streams are refused, want %d: %v", refused, begun, begun-most, err)
		}
		if _, ok := frame.(*http2.RSTStreamFrame); ok {
			refused++
		}
	}
}

// TestHugeHeaders sends a line, and lines without end.
func TestHugeHeaders(t *testing.T) {
	address := serve(t, apiservertest.Start(t, asAdmin))
	for name, header := range map[string]func(i int) string{
		"a line":  func(int) string { return strings.Repeat("a", 1<<16) },
		"lines":   func(i int) string { return fmt.Sprintf("X-%d: %s\r\n", i, strings.Repeat("a", 1<<10)) },
		"cookies": func(i int) string { return "Cookie: a=b\r\n" },
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, address)
			io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: x\r\nX-Long: \r\n")
			if name == "a line" {
				io.WriteString(conn, "X-Long: ")
			}
			sent := 0
			for i := 0; sent < 64<<20; i++ {
				n, err := io.WriteString(conn, header(i))
				if sent += n; err != nil {
					break
				}
			}
			if sent >= 64<<20 {
				t.Error("64 MiB of headers are read")
			}
		})
	}
}

// TestEverybodyListsEverything has 50 clients that read a large list slowly. The server makes it once.
func TestEverybodyListsEverything(t *testing.T) {
	const objects, clients, most = 200, 50, 300 << 20
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.StaticTokens = adminToken })
	api := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1().ConfigMaps("default")
	for i := range objects {
		c := configMap(fmt.Sprint("c", i))
		c.Data["x"] = strings.Repeat("x", 100<<10)
		if _, err := api.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	address := serve(t, s)
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	var readers sync.WaitGroup
	begun, goOn := make(chan struct{}, clients), make(chan struct{})
	for range clients {
		conn := connect(t, address)
		conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		readers.Go(func() {
			io.WriteString(conn, "GET /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer admin-token\r\n\r\n")
			line := make([]byte, len("HTTP/1.1 200"))
			if _, err := io.ReadFull(conn, line); err != nil || string(line[9:]) != fmt.Sprint(http.StatusOK) {
				t.Errorf("answer = %s, %v", line, err)
			}
			begun <- struct{}{}
			<-goOn
		})
	}
	for range clients {
		<-begun
	}
	if grown := heap() - before; grown > most {
		t.Errorf("%d readers of 20 MB cost %d MB", clients, grown>>20)
	}
	if _, err := api.Get(t.Context(), "c0", metav1.GetOptions{}); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	close(goOn)
	readers.Wait()
}
