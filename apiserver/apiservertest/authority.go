package apiservertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// Keys are a certificate authority, which signs tokens too.
type Keys struct {
	Certificate, Key []byte // in PEM

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// Authority is that of all servers of this process. It is valid at any time a test may have.
var Authority = sync.OnceValue(NewAuthority)

// NewAuthority makes another one.
func NewAuthority() *Keys {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // no randomness
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: begin, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	k := &Keys{certificate: template, key: key}
	if k.Certificate, k.Key, err = k.sign(template, key); err != nil {
		panic(err) // the template is always the same
	}
	return k
}

// Bubbles of testing/synctest begin in 2000.
var (
	begin = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	end   = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Client makes the certificate, and its key, of a user of groups, in PEM.
func (k *Keys) Client(name string, groups ...string) (certificate, key []byte, err error) {
	return k.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: groups}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server makes a certificate of a server on the loopback.
func (k *Keys) Server() (tls.Certificate, error) {
	certificate, key, err := k.ServerFiles()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, key)
}

// ServerFiles makes the certificate of a server on the loopback that has names and addresses besides, and its key, in PEM.
func (k *Keys) ServerFiles(names ...string) (certificate, key []byte, err error) {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kube-apiserver"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return k.issue(template)
}

func (k *Keys) issue(template *x509.Certificate) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, nil, err
	}
	template.NotBefore, template.NotAfter, template.KeyUsage = begin, end, x509.KeyUsageDigitalSignature
	return k.sign(template, private)
}

func (k *Keys) sign(template *x509.Certificate, private *ecdsa.PrivateKey) (certificate, key []byte, err error) {
	signed, err := x509.CreateCertificate(rand.Reader, template, k.certificate, private.Public(), k.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
