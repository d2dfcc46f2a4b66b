package rotate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/connrotation"
)

// ClientConfig is what a Client needs; all fields but Roots are required.
type ClientConfig struct {
	// First is how the node reaches the API while it has no certificate of its own: at first, and after it has lost it or let it
	// end. Who that is must be allowed to ask for one. Its address and its authority serve the node's own certificate too.
	First    *rest.Config
	NodeName string
	Dir      string // where certificates and keys are kept, for root alone
	// Roots is who signs the node's certificates; what others have signed is not used. Nil if that is not known.
	Roots *x509.CertPool
}

// Client is the certificate by which the API server knows a kubelet (signer kubernetes.io/kube-apiserver-client-kubelet).
type Client struct {
	manager certificate.Manager
	config  *rest.Config
	current atomic.Pointer[tls.Certificate]

	once sync.Once
	have chan struct{} // closed when there is a certificate
}

// NewClient reads what is on disk. Nothing is asked for before Run.
func NewClient(c ClientConfig) (*Client, error) {
	files, err := openStore("kubelet-client", c.Dir, c.NodeName, c.Roots)
	if err != nil {
		return nil, err
	}
	client := &Client{have: make(chan struct{})}
	connections := connrotation.NewDialer(dial(c.First))
	if client.config, err = client.own(c.First, connections); err != nil {
		return nil, err
	}
	files.renewed = func(pair *tls.Certificate) {
		client.show(pair)
		connections.CloseAll() // the API server knows them by a certificate that will end
	}
	asking, err := clients(c.First, client.config)
	if err != nil {
		return nil, err
	}
	if client.manager, err = certificate.NewManager(&certificate.Config{
		Name:             "kubelet client",
		ClientsetFn:      asking,
		Template:         &x509.CertificateRequest{Subject: subject(c.NodeName)},
		SignerName:       certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:        certificate.DefaultKubeletClientGetUsages,
		CertificateStore: files,
	}); err != nil {
		return nil, err
	}
	if found := client.manager.Current(); found != nil {
		client.show(found)
	}
	return client, nil
}

func (c *Client) show(pair *tls.Certificate) {
	c.current.Store(pair)
	c.once.Do(func() { close(c.have) })
}

// own is first, as another: whose certificate is shown then. The transport is not left to client-go, which looks for a new
// certificate every five minutes alone, and costs a request when it has found one.
func (c *Client) own(first *rest.Config, connections *connrotation.Dialer) (*rest.Config, error) {
	own := rest.AnonymousClientConfig(first)
	trusted, err := rest.TLSConfigFor(own)
	if err != nil {
		return nil, err
	}
	if trusted == nil {
		trusted = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	trusted.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if current := c.current.Load(); current != nil {
			return current, nil
		}
		return &tls.Certificate{}, nil // none is shown
	}
	own.Transport = utilnet.SetTransportDefaults(&http.Transport{
		Proxy:               own.Proxy,
		TLSClientConfig:     trusted,
		DialContext:         connections.DialContext,
		DisableCompression:  own.DisableCompression,
		MaxIdleConnsPerHost: 25,
	})
	own.TLSClientConfig, own.Proxy, own.Dial = rest.TLSClientConfig{}, nil, nil
	return own, nil
}

func dial(c *rest.Config) connrotation.DialFunc {
	if c.Dial != nil {
		return c.Dial
	}
	return (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext
}

// clients returns whom to ask for a certificate with: the node itself, or the first while it has none.
func clients(first, own *rest.Config) (certificate.ClientsetFunc, error) {
	asFirst, err := kubernetes.NewForConfig(first)
	if err != nil {
		return nil, err
	}
	asItself, err := kubernetes.NewForConfig(own)
	if err != nil {
		return nil, err
	}
	return func(current *tls.Certificate) (kubernetes.Interface, error) {
		if current == nil {
			return asFirst, nil
		}
		return asItself, nil
	}, nil
}

// Run keeps the certificate until ctx ends.
func (c *Client) Run(ctx context.Context) error { return keep(ctx, c.manager) }

// Config waits until there is a certificate, for which Run must run, and returns how to reach the API with it. What is made
// of the result goes on with each later certificate.
func (c *Client) Config(ctx context.Context) (*rest.Config, error) {
	select {
	case <-c.have:
		return rest.CopyConfig(c.config), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
