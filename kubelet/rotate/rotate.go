// Package rotate keeps the certificate that a kubelet's API shows: it asks the cluster for one for the node's name and
// addresses (signer kubernetes.io/kubelet-serving), keeps it on disk, and asks for another when 70 to 90 % of its life
// are over, or when the addresses change. Somebody has to approve the requests.
package rotate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/netip"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// Config is what a Serving needs; all fields but First are required.
type Config struct {
	Client   kubernetes.Interface // identity of the node
	NodeName string
	IPs      []netip.Addr
	Dir      string // where certificates and keys are kept, for root alone
	// First is the certificate to show before there is one of the cluster's.
	First func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Serving is the certificate of a kubelet's API.
type Serving struct {
	manager certificate.Manager
	first   func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// New reads what is on disk. Nothing is asked for before Run.
func New(c Config) (*Serving, error) {
	if err := atomicfile.Folder(c.Dir, 0o700); err != nil {
		return nil, err
	}
	store, err := certificate.NewFileStore("kubelet-server", c.Dir, c.Dir, "", "")
	if err != nil {
		return nil, err
	}
	manager, err := certificate.NewManager(&certificate.Config{
		Name:             "kubelet serving",
		ClientsetFn:      func(*tls.Certificate) (kubernetes.Interface, error) { return c.Client, nil },
		GetTemplate:      c.request,
		SignerName:       certificatesv1.KubeletServingSignerName,
		GetUsages:        certificate.DefaultKubeletServingGetUsages,
		CertificateStore: store,
	})
	if err != nil {
		return nil, err
	}
	return &Serving{manager, c.First}, nil
}

func (c Config) request() *x509.CertificateRequest {
	request := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:node:" + c.NodeName, Organization: []string{"system:nodes"}},
		DNSNames: []string{c.NodeName},
	}
	for _, ip := range c.IPs {
		request.IPAddresses = append(request.IPAddresses, net.IP(ip.AsSlice()))
	}
	return request
}

// Run keeps the certificate until ctx ends.
func (s *Serving) Run(ctx context.Context) error {
	s.manager.Start()
	<-ctx.Done()
	s.manager.Stop()
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
