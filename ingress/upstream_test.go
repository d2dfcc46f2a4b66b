package ingress

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// answering makes an endpoint that reads the header of a request and answers with what text returns for the connection's
// number, as long as that is not empty; then it closes the connection.
func (w *world) answering(endpoint string, text func(conn, request int) string) {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	w.at(endpoint, l.Addr().String())
	go func() {
		for n := 0; ; n++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer1(conn, func(request int) string { return text(n, request) })
		}
	}()
}

func answer1(conn net.Conn, text func(request int) string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for n := 0; ; n++ {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		answer := text(n)
		if answer == "" {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
		if strings.Contains(answer, " 413 ") || strings.HasPrefix(answer, "HTTP/1.0") {
			return // and the body is not read
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestHostileEndpoints has endpoints that do not speak HTTP as they should. The client is told, and no other client gets
// what was not meant for it.
func TestHostileEndpoints(t *testing.T) {
	w := start(t)
	for i, test := range []struct {
		name, answer string
		code         int // 0: the answer breaks off
	}{
		{"nothing", "", 502},
		{"no HTTP", "hello\r\n\r\n", 502},
		{"a header without end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 128<<10), 502},
		{"a header of many lines", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 32<<10) + "\r\n", 502},
		{"interim answers without end", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20) + fine, 502},
		{"an interim answer", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + fine, 200},
		{"another protocol, unasked", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 502},
		{"a body that breaks off", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 0},
		{"chunks that are none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", 0},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokx", 502},
		{"a body until the end", "HTTP/1.0 200 OK\r\n\r\nok", 200},
	} {
		name := fmt.Sprint("h", i)
		w.answering(fmt.Sprintf("10.0.1.%d:8080", i), func(int, int) string { return test.answer })
		w.service(name, fmt.Sprintf("10.0.1.%d", i))
		w.route(name, map[string]string{"proxy-read-timeout": "5"}, name+".example / "+name)
		for _, method := range []string{"GET", "POST"} {
			res, err := w.try(method, "http://"+name+".example/", strings.NewReader(""))
			if err != nil {
				if test.code != 0 { // else it broke off before the client got anything
					t.Errorf("%s, %s: %v", test.name, method, err)
				}
				continue
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			switch {
			case test.code == 0 && err == nil:
				t.Errorf("%s, %s: got %s %q, want an answer that breaks off", test.name, method, res.Status, body)
			case test.code != 0 && (err != nil || res.StatusCode != test.code || test.code == 200 && string(body) != "ok"):
				t.Errorf("%s, %s: got %s %q %v, want %d", test.name, method, res.Status, body, err, test.code)
			}
		}
	}
}

// TestAnswersAreNotMixedUp has an endpoint that answers more than it was asked, at once or later, and one that closes
// connections after every answer without saying so: each request gets its own answer.
func TestAnswersAreNotMixedUp(t *testing.T) {
	w := start(t)
	evil := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	w.answering("10.0.0.1:8080", func(int, int) string { return fine + evil })
	w.answering("10.0.0.2:8080", func(_, request int) string {
		if request > 0 {
			return ""
		}
		return fine
	})
	w.service("more", "10.0.0.1")
	w.service("once", "10.0.0.2")
	w.route("more", nil, "more.example / more")
	w.route("once", nil, "once.example / once")
	for range 20 {
		if res, body := w.ask("GET", "http://more.example/", nil); body != "ok" {
			t.Errorf("an endpoint that says more: got %s %q", res.Status, body)
		}
		if res, body := w.ask("GET", "http://once.example/", nil); body != "ok" {
			t.Errorf("an endpoint that hangs up: got %s %q", res.Status, body)
		}
	}
}

// TestAnswerBeforeTheBodyIsRead has an endpoint that refuses a body of which it reads nothing, and requests that are
// refused without asking one: the client sees why, and if it then never ends its request it does not keep the connection.
func TestAnswerBeforeTheBodyIsRead(t *testing.T) {
	w := start(t)
	w.answering("10.0.0.1:8080", func(int, int) string {
		return "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmuch"
	})
	w.service("web", "10.0.0.1")
	w.service("nothing")
	w.route("web", nil, "a.example / web")
	w.route("nothing", nil, "nothing.example / nothing")
	w.route("forbidden", map[string]string{"denylist-source-range": "0.0.0.0/0"}, "forbidden.example / web")
	where, err := w.real("x:80")
	if err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	for host, code := range map[string]int{"a.example": 413, "nothing.example": 503, "forbidden.example": 403, "missing.example": 404} {
		asking.Go(func() {
			conn, err := net.Dial("tcp", where)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // sooner than any other limit of the ingress'
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 100\r\n\r\nGET /", host)
			all, err := io.ReadAll(conn)
			if !strings.HasPrefix(string(all), fmt.Sprintf("HTTP/1.1 %d ", code)) || strings.Count(string(all), "HTTP/1.1 ") > 1 || err != nil {
				t.Errorf("%s: got %q %v", host, all, err)
			}
		})
	}
	asking.Wait()
}

// TestConnectionsAreUsedAgain counts the connections that many requests take.
func TestConnectionsAreUsedAgain(t *testing.T) {
	w := start(t)
	var opened atomic.Int64
	s := httptest.NewUnstartedServer(echo("web"))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	w.at("10.0.0.1:8080", s.Listener.Addr().String())
	secure := httptest.NewUnstartedServer(echo("secure"))
	secure.Config.ConnState = s.Config.ConnState
	secure.StartTLS()
	t.Cleanup(secure.Close)
	w.at("10.0.0.2:8080", secure.Listener.Addr().String())
	w.service("web", "10.0.0.1")
	w.service("secure", "10.0.0.2")
	w.route("web", nil, "a.example / web")
	w.route("secure", map[string]string{"backend-protocol": "HTTPS"}, "b.example / secure")
	for range 20 {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			for _, host := range []string{"a.example", "b.example"} {
				if res, body := w.ask(method, "http://"+host+"/", strings.NewReader(strings.Repeat("x", 100))); res.StatusCode != http.StatusOK {
					t.Errorf("%s: got %s %s", host, res.Status, body)
				}
			}
		}
	}
	if got := opened.Load(); got > 20 {
		t.Errorf("120 requests took %d connections", got)
	}
}
