package rotate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
)

// ServingConfig is what a Serving needs; all fields but Roots and First are required.
type ServingConfig struct {
	Client   kubernetes.Interface // identity of the node
	NodeName string
	IPs      []netip.Addr
	Dir      string // where certificates and keys are kept, for root alone
	// Roots is who signs the node's certificates; what others have signed is not shown. Nil if that is not known.
	Roots *x509.CertPool
	// First is the certificate to show before there is one of the cluster's.
	First func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Serving is the certificate of a kubelet's API, for the node's name and addresses (signer kubernetes.io/kubelet-serving).
// It is asked for again when the addresses change.
type Serving struct {
	manager certificate.Manager
	first   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// NewServing reads what is on disk. Nothing is asked for before Run.
func NewServing(c ServingConfig) (*Serving, error) {
	files, err := openStore("kubelet-server", c.Dir, c.NodeName, c.Roots)
	if err != nil {
		return nil, err
	}
	manager, err := certificate.NewManager(&certificate.Config{
		Name:             "kubelet serving",
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return c.Client, nil },
		GetTemplate:      c.request,
		SignerName:       certificatesv1.KubeletServingSignerName,
		GetUsages:        certificate.DefaultKubeletServingGetUsages,
		CertificateStore: files,
	})
	if err != nil {
		return nil, err
	}
	return &Serving{manager, c.First}, nil
}

func (c ServingConfig) request() *x509.CertificateRequest {
	request := &x509.CertificateRequest{Subject: subject(c.NodeName), DNSNames: []string{c.NodeName}}
	for _, ip := range c.IPs {
		request.IPAddresses = append(request.IPAddresses, net.IP(ip.AsSlice()))
	}
	return request
}

// Run keeps the certificate until ctx ends.
func (s *Serving) Run(ctx context.Context) error { return keep(ctx, s.manager) }

func keep(ctx context.Context, manager certificate.Manager) error {
	manager.Start()
	<-ctx.Done()
	manager.Stop()
	return nil
}

// Show is for tls.Config.GetCertificate.
func (s *Serving) Show(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	switch current := s.manager.Current(); {
	case current != nil:
		return current, nil
	case s.first != nil:
		return s.first(hello)
	}
	return nil, errors.New("no serving certificate available for the kubelet")
}
