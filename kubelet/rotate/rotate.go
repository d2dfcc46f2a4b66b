// Package rotate keeps the certificates of a kubelet: the one that its API shows (Serving), and the one by which the API
// server knows it (Client). Each is asked for with a CertificateSigningRequest, kept on disk, and asked for again when 70 to
// 90 % of its life are over. Somebody has to approve the requests.
package rotate

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/util/certificate"

	"github.com/skiff-k8s/skiff/atomicfile"
)

// subject is whom the certificates of a node are for.
func subject(nodeName string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{user.NodesGroup}}
}

// store is certificates and keys on disk.
type store struct {
	certificate.FileStore
	name    string                 // whom certificates must be for
	roots   *x509.CertPool         // who must have signed them; anybody if nil
	renewed func(*tls.Certificate) // called for every new pair, once it is on disk
}

func openStore(kind, dir, nodeName string, roots *x509.CertPool) (*store, error) {
	if err := atomicfile.Folder(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := certificate.NewFileStore(kind, dir, dir, "", "")
	return &store{FileStore: files, name: subject(nodeName).CommonName, roots: roots, renewed: func(*tls.Certificate) {}}, err
}

// Current leaves out a pair of another node, or of an authority that is no more the cluster's: nobody would believe it, and
// none could be asked for with it.
func (s *store) Current() (*tls.Certificate, error) {
	pair, err := s.FileStore.Current()
	if err != nil {
		return nil, err
	}
	if pair.Leaf.Subject.CommonName != s.name || !s.signed(pair.Leaf) {
		none := certificate.NoCertKeyError("the certificate on disk is not one of the cluster's for " + s.name)
		return nil, &none
	}
	return pair, nil
}

// signed reports whether the cluster's authority has signed a certificate, which may have ended since.
func (s *store) signed(cert *x509.Certificate) bool {
	if s.roots == nil {
		return true
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: s.roots, CurrentTime: cert.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

func (s *store) Update(cert, key []byte) (*tls.Certificate, error) {
	pair, err := s.FileStore.Update(cert, key)
	if err == nil {
		s.renewed(pair)
	}
	return pair, err
}
