package skifftest

import (
	"crypto/tls"
	"fmt"
	"net"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// Kubeconfig has the cluster listen on a port of the loopback until it ends, and returns a kubeconfig of an administrator
// for programs outside of this process.
func (c *Cluster) Kubeconfig() []byte {
	c.t.Helper()
	return c.KubeconfigOf(admin, user.SystemPrivilegedGroup)
}

// KubeconfigOf is Kubeconfig for a user of groups, who has the rights that RBAC gives.
func (c *Cluster) KubeconfigOf(name string, groups ...string) []byte {
	c.t.Helper()
	config, err := c.kubeconfig(name, groups)
	if err != nil {
		c.t.Fatalf("skifftest: kubeconfig: %v", err)
	}
	return config
}

func (c *Cluster) kubeconfig(name string, groups []string) ([]byte, error) {
	if err := c.within(c.listenFirst); err != nil {
		return nil, err
	}
	keys := apiservertest.Authority()
	certificate, key, err := keys.Client(name, groups...)
	if err != nil {
		return nil, err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["skifftest"] = &clientcmdapi.Cluster{Server: "https://" + c.port, CertificateAuthorityData: keys.Certificate}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts["skifftest"] = &clientcmdapi.Context{Cluster: "skifftest", AuthInfo: name}
	config.CurrentContext = "skifftest"
	return clientcmd.Write(*config)
}

// listenFirst listens unless the cluster does already.
func (c *Cluster) listenFirst() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.port != "" {
		return nil
	}
	if c.live == nil {
		return errEnded
	}
	address, err := c.live.listen("127.0.0.1:0")
	c.port = address
	return err
}

// listen has a server that has taken the place of another listen where that did.
func (c *Cluster) listen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.port == "" {
		return nil
	}
	_, err := c.live.listen(c.port)
	return err
}

// listen serves on a port until the server is stopped.
func (l *life) listen(at string) (address string, err error) {
	pair, err := apiservertest.Authority().Server()
	if err != nil {
		return "", err
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return "", fmt.Errorf("listen for programs outside: %w", err)
	}
	l.serve(listener, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert})
	return listener.Addr().String(), nil
}
