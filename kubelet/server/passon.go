package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	panics "github.com/skiff-k8s/skiff/guard" // guard is the one at the door here
	"github.com/skiff-k8s/skiff/spdy"
)

const dialTimeout = 10 * time.Second

// passOn connects the client to the runtime's streaming server at target: it asks there for the upgrade
// that the client asks for, and from then on copies bytes both ways until one side ends.
func passOn(w http.ResponseWriter, r *http.Request, target string) {
	if !strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade") {
		fail(w, http.StatusBadRequest, "Upgrade request required")
		return
	}
	server, response, err := askUpgrade(r, target)
	if err != nil {
		fail(w, http.StatusInternalServerError, fmt.Sprintf("unable to upgrade connection: %v", err))
		return
	}
	defer server.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		answer(w, response)
		return
	}
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		fail(w, http.StatusInternalServerError, fmt.Sprintf("unable to upgrade connection: %v", err))
		return
	}
	defer client.Close()
	if err := switchProtocols(client, response); err != nil {
		return // the client went away
	}
	from := conn{buffered.Reader, client}
	if strings.EqualFold(response.Header.Get("Upgrade"), "SPDY/3.1") {
		// The runtime, which serves all containers of the node, queues whole frames.
		guard := new(spdy.Guard)
		from, server = conn{guard.FromClient(from), client}, conn{guard.FromServer(server), server}
	}
	join(from, server)
}

// conn is a connection of which some bytes were read ahead.
type conn struct {
	io.Reader
	net.Conn
}

func (c conn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// askUpgrade sends the request on and returns the connection with the answer to it.
func askUpgrade(r *http.Request, target string) (net.Conn, *http.Response, error) {
	location, err := url.Parse(target)
	if err != nil {
		return nil, nil, fmt.Errorf("the container runtime answered with URL %q: %w", target, err)
	}
	request := r.Clone(r.Context())
	request.URL, request.Host, request.RequestURI = location, location.Host, ""
	request.Header.Del("Authorization") // what let the client in here is nobody else's business
	if agent := r.UserAgent(); agent == "" {
		request.Header.Set("User-Agent", "") // rather than the default of the HTTP client
	}

	dialer := net.Dialer{Timeout: dialTimeout}
	server, err := dialer.DialContext(r.Context(), "tcp", location.Host)
	if err != nil {
		return nil, nil, err
	}
	// The runtime must answer before the client goes away.
	stop := context.AfterFunc(r.Context(), func() { server.SetDeadline(time.Now()) })
	defer stop()
	if err := request.Write(server); err != nil {
		server.Close()
		return nil, nil, err
	}
	reader := bufio.NewReader(server)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		server.Close()
		return nil, nil, err
	}
	return conn{reader, server}, response, nil
}

// answer gives the client an answer other than an upgrade.
func answer(w http.ResponseWriter, response *http.Response) {
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body) // a client that went away needs no answer
}

func switchProtocols(client net.Conn, response *http.Response) error {
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", response.StatusCode, http.StatusText(response.StatusCode))
	if err := response.Header.Write(&head); err != nil {
		return err
	}
	head.WriteString("\r\n")
	_, err := client.Write([]byte(head.String()))
	return err
}

// join copies both ways until one side ends or sends what may not pass, and closes both.
func join(client, server net.Conn) {
	ended := make(chan struct{}, 2)
	carry := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // either side may end when it likes
		ended <- struct{}{}
	}
	panics.Go("streams", func() { carry(server, client) })
	panics.Go("streams", func() { carry(client, server) })
	<-ended
	client.Close()
	server.Close()
	<-ended
}
