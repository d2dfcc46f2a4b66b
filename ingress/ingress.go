// Package ingress serves Ingresses on one node: it follows them in the API, keeps a table of routes (package route), and
// passes requests on to endpoints. It opens its ports while there is an Ingress of its class, and says so in an annotation
// of the Node; one node writes the addresses of all into the status of Ingresses.
//
// controller.go follows objects, handler.go serves a request, status.go tells what is served and what is not.
package ingress

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// ControllerName is what IngressClasses of this controller say.
	ControllerName = "skiff-k8s.github.io/ingress"
	// ClassName is the class that it makes when there is none of that name.
	ClassName = "skiff"
)

// Config says what an ingress needs. Client, NodeClient, NodeName and Address are required.
type Config struct {
	Client kubernetes.Interface
	// NodeClient has the rights of the node: it annotates the Node.
	NodeClient kubernetes.Interface
	NodeName   string
	// Address is the node's, where the ports are; Others are those of other IP
	// families.
	Address netip.Addr
	Others  []netip.Addr
	// HTTPPort and HTTPSPort are where requests come; 0 serves none of the kind.
	HTTPPort, HTTPSPort uint16
	// AccessLog gets a line for each request; nil: none is written.
	AccessLog io.Writer
	Log       *slog.Logger
	// Dial connects to endpoints; nil connects to all but addresses of the loopback and of the link.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Listen opens the ports; nil is net.Listen.
	Listen func(network, address string) (net.Listener, error)
}

// addresses are all at which the node serves.
func (c Config) addresses() []netip.Addr { return append([]netip.Addr{c.Address}, c.Others...) }

// Ingress serves Ingresses on one node.
type Ingress struct {
	controller *controller
}

// New returns an Ingress that Run starts.
func New(c Config) (*Ingress, error) {
	switch {
	case c.Client == nil || c.NodeClient == nil:
		return nil, errors.New("ingress: Config.Client and Config.NodeClient are required")
	case !c.Address.IsValid():
		return nil, errors.New("ingress: Config.Address is required")
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	controller, err := newController(c)
	if err != nil {
		return nil, err
	}
	return &Ingress{controller}, nil
}

// Run serves until ctx ends.
func (i *Ingress) Run(ctx context.Context) error { return i.controller.run(ctx) }

// Metrics are the figures of requests.
func (i *Ingress) Metrics() prometheus.Gatherer { return i.controller.handler.journal.registry }

// EnsureClass makes the IngressClass of this controller, as the default one, if there is none of its name. What was
// changed about it stays.
func EnsureClass(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.NetworkingV1().IngressClasses().Create(ctx, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: ControllerName},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the IngressClass %s: %w", ClassName, err)
	}
	return nil
}
