package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/cluster"
)

// keys are the certificates and keys that all servers and clients use.
type keys struct {
	cert, key, ca, tokens string // files
	roots                 *x509.CertPool
	bundle                []byte // of the authority
	admin                 tls.Certificate
}

func newKeys(dir string) (keys, error) {
	k := keys{roots: x509.NewCertPool()}
	pki, err := cluster.OpenPKI(dir)
	if err != nil {
		return k, err
	}
	k.bundle = pki.CA()
	k.roots.AppendCertsFromPEM(k.bundle)
	if _, err := pki.Server("server", "kubernetes", "127.0.0.1"); err != nil {
		return k, err
	}
	if _, err := pki.Key("tokens"); err != nil {
		return k, err
	}
	admin, err := pki.Client("admin", "admin", "system:masters")
	if err != nil {
		return k, err
	}
	k.cert, k.key = filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	k.ca, k.tokens = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "tokens.key")
	k.admin, err = tls.X509KeyPair(admin.CertPEM, admin.KeyPEM)
	return k, err
}

// config is that of a client, the administrator.
func (k keys) config() *tls.Config {
	return &tls.Config{RootCAs: k.roots, Certificates: []tls.Certificate{k.admin}}
}

// clients returns n clients with a TCP connection each: client-go would put all
// requests of one client, and of all clients alike, on one HTTP/2 connection.
func (k keys) clients(address string, n int) ([]kubernetes.Interface, error) {
	var clients []kubernetes.Interface
	for range n {
		transport := &http.Transport{
			TLSClientConfig:    k.config(),
			ForceAttemptHTTP2:  true,
			DisableCompression: true, // what asks for compressed answers does not want them unpacked
		}
		config := &rest.Config{
			Host: "https://" + address,
			QPS:  -1,
			ContentConfig: rest.ContentConfig{
				ContentType:        runtime.ContentTypeProtobuf,
				AcceptContentTypes: runtime.ContentTypeProtobuf,
			},
		}
		client, err := kubernetes.NewForConfigAndClient(config, &http.Client{Transport: transport})
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}
