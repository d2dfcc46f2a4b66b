package envtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// WebhookInstallOptions say which webhooks are installed, and where the suite serves them.
type WebhookInstallOptions struct {
	// Paths are files, or folders of files, with webhook configurations among others.
	Paths              []string
	MutatingWebhooks   []*admissionregistrationv1.MutatingWebhookConfiguration
	ValidatingWebhooks []*admissionregistrationv1.ValidatingWebhookConfiguration
	// IgnoreSchemeConvertible has all kinds be converted by the webhook, whatever the Scheme says.
	IgnoreSchemeConvertible bool
	// IgnoreErrorIfPathMissing makes a path that is not there no error.
	IgnoreErrorIfPathMissing bool

	// LocalServingHost and LocalServingPort are where the suite serves; if there are none, a free port of the loopback.
	LocalServingHost string
	LocalServingPort int
	// LocalServingCertDir is where the suite finds tls.crt and tls.key, which are made for it, and which Cleanup removes.
	LocalServingCertDir string
	// LocalServingCAData is what vouches for them.
	LocalServingCAData []byte
	// LocalServingHostExternalName is the name by which the API server reaches the suite; empty: LocalServingHost.
	LocalServingHostExternalName string

	// MaxTime and PollInterval are of no use here: a webhook is there as soon as it is made.
	MaxTime, PollInterval time.Duration
}

// PrepWithoutInstalling makes certificates, reads files, and has all webhooks lead to the suite.
func (o *WebhookInstallOptions) PrepWithoutInstalling() error {
	if err := o.certify(); err != nil {
		return err
	}
	if err := o.read(); err != nil {
		return err
	}
	return o.ModifyWebhookDefinitions()
}

// Install is PrepWithoutInstalling unless that was done, and makes the webhooks in the cluster.
func (o *WebhookInstallOptions) Install(config *rest.Config) error {
	if len(o.LocalServingCAData) == 0 {
		if err := o.PrepWithoutInstalling(); err != nil {
			return err
		}
	}
	version := admissionregistrationv1.SchemeGroupVersion
	mutating, err := clientOf(config, "mutatingwebhookconfigurations", version)
	if err != nil {
		return err
	}
	validating, err := clientOf(config, "validatingwebhookconfigurations", version)
	if err != nil {
		return err
	}
	for _, hook := range o.MutatingWebhooks {
		if err := mutating.put(context.Background(), hook); err != nil {
			return fmt.Errorf("install %s: %w", hook.Name, err)
		}
	}
	for _, hook := range o.ValidatingWebhooks {
		if err := validating.put(context.Background(), hook); err != nil {
			return fmt.Errorf("install %s: %w", hook.Name, err)
		}
	}
	return nil
}

// Cleanup removes the certificates.
func (o *WebhookInstallOptions) Cleanup() error {
	if o.LocalServingCertDir == "" {
		return nil
	}
	return os.RemoveAll(o.LocalServingCertDir)
}

// certify makes the certificate of the suite's server.
func (o *WebhookInstallOptions) certify() error {
	var names []string
	for _, name := range []string{o.LocalServingHost, o.LocalServingHostExternalName} {
		if name != "" {
			names = append(names, name)
		}
	}
	keys := apiservertest.Authority()
	certificate, key, err := keys.ServerFiles(names...)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "envtest-certificates-")
	if err != nil {
		return err
	}
	o.LocalServingCertDir, o.LocalServingCAData = dir, keys.Certificate
	return errors.Join(os.WriteFile(filepath.Join(dir, "tls.crt"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "tls.key"), key, 0o600))
}

func (o *WebhookInstallOptions) read() error {
	return manifests(o.Paths, o.IgnoreErrorIfPathMissing, func(kind metav1.TypeMeta, document []byte) error {
		if kind.APIVersion != admissionregistrationv1.SchemeGroupVersion.String() {
			return nil
		}
		switch kind.Kind {
		case "MutatingWebhookConfiguration":
			hook := new(admissionregistrationv1.MutatingWebhookConfiguration)
			o.MutatingWebhooks = append(o.MutatingWebhooks, hook)
			return yaml.Unmarshal(document, hook)
		case "ValidatingWebhookConfiguration":
			hook := new(admissionregistrationv1.ValidatingWebhookConfiguration)
			o.ValidatingWebhooks = append(o.ValidatingWebhooks, hook)
			return yaml.Unmarshal(document, hook)
		}
		return nil
	})
}

// ModifyWebhookDefinitions has webhooks lead to the suite, at the path that each has of its Service.
func (o *WebhookInstallOptions) ModifyWebhookDefinitions() error {
	at, err := o.address()
	if err != nil {
		return err
	}
	for _, configuration := range o.MutatingWebhooks {
		for i := range configuration.Webhooks {
			o.lead(&configuration.Webhooks[i].ClientConfig, at)
		}
	}
	for _, configuration := range o.ValidatingWebhooks {
		for i := range configuration.Webhooks {
			o.lead(&configuration.Webhooks[i].ClientConfig, at)
		}
	}
	return nil
}

func (o *WebhookInstallOptions) lead(c *admissionregistrationv1.WebhookClientConfig, at string) {
	c.CABundle = o.LocalServingCAData
	if c.Service != nil && c.Service.Path != nil {
		url := "https://" + at + "/" + strings.TrimPrefix(*c.Service.Path, "/")
		c.URL, c.Service = &url, nil
	}
}

// address is where the API server reaches the suite.
func (o *WebhookInstallOptions) address() (string, error) {
	if o.LocalServingPort == 0 {
		host := cmp.Or(o.LocalServingHost, "127.0.0.1")
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return "", fmt.Errorf("find a free port for webhooks: %w", err)
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return "", err
		}
		if o.LocalServingPort, err = strconv.Atoi(port); err != nil {
			return "", err
		}
		o.LocalServingHost = host
	}
	host := cmp.Or(o.LocalServingHostExternalName, o.LocalServingHost, "127.0.0.1")
	return net.JoinHostPort(host, strconv.Itoa(o.LocalServingPort)), nil
}
