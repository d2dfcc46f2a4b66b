package envtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// User is one of the cluster.
type User struct {
	Name   string
	Groups []string
}

// AuthenticatedUser reaches the cluster as a user.
type AuthenticatedUser struct {
	config     *rest.Config
	kubeconfig []byte
	kubectl    string
}

func newUser(kubeconfig []byte, base *rest.Config, kubectl string) (*AuthenticatedUser, error) {
	own, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config := own
	if base != nil {
		config = rest.CopyConfig(base)
		config.Host, config.CAData, config.CertData, config.KeyData = own.Host, own.CAData, own.CertData, own.KeyData
	}
	return &AuthenticatedUser{config: config, kubeconfig: kubeconfig, kubectl: kubectl}, nil
}

// Config is for clients.
func (u *AuthenticatedUser) Config() *rest.Config { return rest.CopyConfig(u.config) }

// KubeConfig is for programs outside.
func (u *AuthenticatedUser) KubeConfig() ([]byte, error) { return u.kubeconfig, nil }

// Kubectl runs kubectl as the user. Its kubeconfig is a file, which is there while it runs.
func (u *AuthenticatedUser) Kubectl() (*KubeCtl, error) {
	return &KubeCtl{Path: cmp.Or(u.kubectl, "kubectl"), kubeconfig: u.kubeconfig}, nil
}

// KubeCtl runs a kubectl with options before the arguments of each run.
type KubeCtl struct {
	Path string
	Opts []string

	kubeconfig []byte
}

// Run runs it to its end.
func (k *KubeCtl) Run(args ...string) (stdout, stderr io.Reader, err error) {
	file, err := os.CreateTemp("", "envtest-*.kubeconfig")
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.Write(k.kubeconfig)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, nil, err
	}
	var out, errOut bytes.Buffer
	cmd := exec.Command(k.Path, append(append([]string{"--kubeconfig=" + file.Name()}, k.Opts...), args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return &out, &errOut, err
}

// kubeconfig is what says the same as config.
func kubeconfig(config *rest.Config) ([]byte, error) {
	if config.ExecProvider != nil || config.AuthProvider != nil {
		return nil, fmt.Errorf("the credentials of %s are made by a program: give the environment a KubeConfig", config.Host)
	}
	const name = "envtest"
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{
		Server: config.Host, CertificateAuthority: config.CAFile, CertificateAuthorityData: config.CAData,
		InsecureSkipTLSVerify: config.Insecure, TLSServerName: config.ServerName,
	}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificate: config.CertFile, ClientCertificateData: config.CertData, ClientKey: config.KeyFile, ClientKeyData: config.KeyData,
		Token: config.BearerToken, TokenFile: config.BearerTokenFile, Username: config.Username, Password: config.Password,
	}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	return clientcmd.Write(*c)
}
