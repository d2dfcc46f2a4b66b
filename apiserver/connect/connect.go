// Package connect serves the subresources that are connections: the log of a
// container, exec, attach, port-forward, and the proxies to pods, services and
// nodes.
//
// Log, exec, attach and port-forward end at the kubelet of the pod's node. A
// kubelet speaks SPDY/3.1; clients may speak that, which is passed through, or
// WebSocket, which is translated here, so that any kubelet will do (KEP-4006).
//
// All connections are opened by Config.Dial, so that a cluster whose nodes are
// network namespaces can route them.
package connect

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver/reach"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Config of New. Zero fields mean what their comments say.
type Config struct {
	// Dial reaches nodes and pods; nil: a net.Dialer.
	Dial reach.Dial
	// Kubelet has the client certificate kubelets ask for and how theirs is
	// verified; nil: no certificate, nothing verified.
	Kubelet *tls.Config
	// Authorizer is asked whether a GET that opens a session may "create" it;
	// nil: it may.
	Authorizer authorizer.Authorizer
	// WriteError answers with an error after which nothing else was written;
	// nil: as plain text with status 500.
	WriteError func(http.ResponseWriter, *http.Request, error)
}

// Target is what a request connects to.
type Target struct {
	Resource        *resource.Resource
	Sub             *resource.Sub
	Namespace, Name string
	Path            string // what follows the name of the subresource, without the slash
}

// Handler serves connections. It is used by many goroutines at once.
type Handler struct {
	cluster    resource.Cluster
	kubelet    *http.Transport
	pods       *http.Transport
	authorizer authorizer.Authorizer
	writeError func(http.ResponseWriter, *http.Request, error)
}

// New returns a Handler that must be given its cluster by Use.
func New(c Config) *Handler {
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	if c.Kubelet == nil {
		c.Kubelet = &tls.Config{InsecureSkipVerify: true}
	}
	if c.WriteError == nil {
		c.WriteError = func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}
	return &Handler{
		kubelet:    transport(c.Dial, c.Kubelet),
		pods:       transport(c.Dial, &tls.Config{InsecureSkipVerify: true}),
		authorizer: c.Authorizer,
		writeError: c.WriteError,
	}
}

// transport speaks HTTP/1.1 only, which is what can be upgraded.
func transport(dial reach.Dial, config *tls.Config) *http.Transport {
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	return &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     config.Clone(),
		TLSHandshakeTimeout: 10 * time.Second,
		Protocols:           protocols,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,

		MaxResponseHeaderBytes: 1 << 20,
	}
}

// Use says where pods, nodes and services are looked up.
func (h *Handler) Use(c resource.Cluster) { h.cluster = c }

// ServeConnect serves one connection until it ends. An error means that
// nothing has been written.
func (h *Handler) ServeConnect(w http.ResponseWriter, r *http.Request, t Target) error {
	serve := map[string]func(http.ResponseWriter, *http.Request, Target) error{
		"pods/log":         h.log,
		"pods/exec":        h.exec,
		"pods/attach":      h.attach,
		"pods/portforward": h.portForward,
		"pods/proxy":       h.proxyPod,
		"services/proxy":   h.proxyService,
		"nodes/proxy":      h.proxyNode,
	}[t.Resource.Plural+"/"+t.Sub.Name]
	if serve == nil {
		return apierrors.NewInternalError(fmt.Errorf("%s/%s cannot be connected to", t.Resource.Plural, t.Sub.Name))
	}
	return serve(w, r, t)
}
