// Package reach finds where a Service leads: to the addresses in its
// EndpointSlices. The API server reaches Services so, and needs no rules of the
// host it runs on, which may not be a node.
package reach

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// Dial opens a connection, as net.Dialer.DialContext does.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Endpoint is one address a Service leads to. Target is what is said to be
// there; anybody who may write a slice can say that.
type Endpoint struct {
	IP     string
	Port   int32
	Target *corev1.ObjectReference
}

// Address is the host:port to dial.
func (e Endpoint) Address() string { return net.JoinHostPort(e.IP, strconv.Itoa(int(e.Port))) }

// Ready are the ready endpoints of a Service for the port of a name.
func Ready(ctx context.Context, cluster resource.Cluster, namespace, service, port string) ([]Endpoint, error) {
	all, err := Slices(ctx, cluster, namespace, service)
	if err != nil {
		return nil, err
	}
	var found []Endpoint
	for _, s := range all {
		found = append(found, ready(s, port)...)
	}
	return found, nil
}

// Slices are the EndpointSlices of a Service.
func Slices(ctx context.Context, cluster resource.Cluster, namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := cluster.List(ctx, cluster.Resource(discoveryv1.GroupName, "endpointslices"), namespace)
	if err != nil {
		return nil, err
	}
	var found []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s := obj.(*discoveryv1.EndpointSlice); s.Labels[discoveryv1.LabelServiceName] == service {
			found = append(found, s)
		}
	}
	return found, nil
}

func ready(s *discoveryv1.EndpointSlice, port string) []Endpoint {
	i := slices.IndexFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return ptr.Deref(p.Name, "") == port && p.Port != nil })
	if i < 0 {
		return nil
	}
	var found []Endpoint
	for _, e := range s.Endpoints {
		if ptr.Deref(e.Conditions.Ready, true) && len(e.Addresses) > 0 {
			found = append(found, Endpoint{e.Addresses[0], *s.Ports[i].Port, e.TargetRef})
		}
	}
	return found
}

// Addresses are where a port of a Service leads to, in random order, those of
// the Service's first family before others. There is at least one, or an error. A
// Service of type ExternalName leads to its name.
func Addresses(ctx context.Context, cluster resource.Cluster, namespace, name string, port int32) ([]string, error) {
	obj, err := cluster.Get(ctx, cluster.Resource("", "services"), namespace, name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewNotFound(corev1.Resource("service"), name) // as kube-apiserver calls it here
	}
	if err != nil {
		return nil, err
	}
	service := obj.(*corev1.Service)
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return []string{net.JoinHostPort(service.Spec.ExternalName, strconv.Itoa(int(port)))}, nil
	}
	ports := service.Spec.Ports
	i := slices.IndexFunc(ports, func(p corev1.ServicePort) bool { return p.Port == port })
	if i < 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
	}
	all, err := Slices(ctx, cluster, namespace, name)
	if err != nil {
		return nil, err
	}
	var first, others []string
	for _, s := range all {
		into := &others
		if len(service.Spec.IPFamilies) == 0 || string(s.AddressType) == string(service.Spec.IPFamilies[0]) {
			into = &first
		}
		for _, e := range ready(s, ports[i].Name) {
			*into = append(*into, e.Address())
		}
	}
	if len(first)+len(others) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	}
	for _, list := range [][]string{first, others} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	return append(first, others...), nil
}

// Address is one of Addresses, picked at random.
func Address(ctx context.Context, cluster resource.Cluster, namespace, name string, port int32) (string, error) {
	all, err := Addresses(ctx, cluster, namespace, name, port)
	if err != nil {
		return "", err
	}
	return all[0], nil
}

// Redirects is the CheckRedirect of http.Clients for webhooks. They are followed,
// as far as others are, while they lead to what shows a certificate that the
// webhook's configuration trusts: an answer must not make this server talk to
// what is beside it.
func Redirects(r *http.Request, via []*http.Request) error {
	switch {
	case r.URL.Scheme != "https":
		return fmt.Errorf("a webhook may not lead to %s", r.URL.Scheme)
	case len(via) >= 10:
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

// Limit reads no more than Most bytes of an answer: who asked is told that it is larger.
type Limit struct {
	Next http.RoundTripper
	Most int
}

var _ http.RoundTripper = Limit{}

// RoundTrip implements http.RoundTripper.
func (l Limit) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.Next.RoundTrip(r)
	if err == nil {
		answer.Body = &limited{answer.Body, l.Most, l.Most}
	}
	return answer, err
}

type limited struct {
	io.ReadCloser
	most, left int
}

// Read asks for one byte more than there may be, to know whether there is one.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p[:min(len(p), l.left+1)])
	if n > l.left {
		return l.left, fmt.Errorf("the answer is larger than %d bytes", l.most)
	}
	l.left -= n
	return n, err
}
