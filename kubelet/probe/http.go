package probe

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/hooks"
)

// userAgent is how servers recognise probes.
const userAgent = "kube-probe/1.36"

// dialer opens connections that take their port with them a second after they are closed: a node with
// many probes would else run out of ports.
var dialer = &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
	var setErr error
	err := c.Control(func(fd uintptr) {
		setErr = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	})
	return errors.Join(err, setErr)
}}

// transport does not verify certificates, which containers usually sign themselves.
var transport = &http.Transport{
	TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
	DisableKeepAlives:  true,
	DisableCompression: true,
	DialContext:        dialer.DialContext,

	MaxResponseHeaderBytes: 1 << 20,
}

// tryHTTP gets a URL, which succeeds with a status from 200 to 399. Redirects are followed within the
// host; one to another host counts as success, with a warning.
func tryHTTP(ctx context.Context, t *target, action *v1.HTTPGetAction, timeout time.Duration) (outcome, string) {
	request, err := newRequest(ctx, t, action)
	if err != nil {
		return unknown, err.Error()
	}
	client := &http.Client{Timeout: timeout, Transport: transport, CheckRedirect: withinHost}
	response, err := client.Do(request)
	if err != nil {
		return failure, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxOutput))
	switch {
	case err != nil:
		return failure, ""
	case response.StatusCode < 200 || response.StatusCode >= 400:
		// The body is left out: it might show to whoever can read events what they may not fetch.
		return failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", response.StatusCode)
	case response.StatusCode >= 300:
		return warning, fmt.Sprintf("Probe terminated redirects, Response body: %s", body)
	}
	return success, ""
}

func newRequest(ctx context.Context, t *target, action *v1.HTTPGetAction) (*http.Request, error) {
	port, err := hooks.Port(action.Port, t.container)
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(action.Path)
	if err != nil {
		target = &url.URL{Path: action.Path} // as good as it gets: the API let it through
	}
	target.Scheme = strings.ToLower(cmp.Or(string(action.Scheme), "http"))
	target.Host = net.JoinHostPort(cmp.Or(action.Host, t.podIP), strconv.Itoa(port))

	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range action.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	request.Host = request.Header.Get("Host")
	setDefault(request.Header, "User-Agent", userAgent)
	setDefault(request.Header, "Accept", "*/*")
	if request.Header.Get("Accept") == "" {
		request.Header.Del("Accept") // an empty one asks for none
	}
	return request, nil
}

func setDefault(h http.Header, name, value string) {
	if _, found := h[name]; !found {
		h.Set(name, value)
	}
}

// withinHost follows up to ten redirects within the host of the probe.
func withinHost(next *http.Request, via []*http.Request) error {
	if next.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
