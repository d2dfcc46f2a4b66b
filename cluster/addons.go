package cluster

import (
	"bytes"
	"context"
	_ "embed"
	"text/template"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/controlplane"
)

// dnsImage is made on the spot around the CoreDNS of the tools.
const dnsImage = "localhost/skiff/coredns:latest"

//go:embed dns.yaml
var dnsManifest string

//go:embed rights.yaml
var rightsManifest string

// addons applies what a cluster on one machine has besides its components. It
// owns only the fields of the manifests: what a user adds to these objects
// stays.
func (r *run) addons(ctx context.Context) error {
	client, err := dynamic.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	manifests := []string{rightsManifest, controlplane.Rights}
	if r.Nodes > 0 {
		var dns bytes.Buffer
		if err := template.Must(template.New("dns").Parse(dnsManifest)).Execute(&dns, map[string]any{
			"Domain": r.Domain, "Addresses": r.dns(), "Families": r.ServiceCIDRs.Families(), "Image": dnsImage,
		}); err != nil {
			return err
		}
		manifests = append(manifests, dns.String())
	}
	clients, err := kubernetes.NewForConfig(r.plane.config(adminUser))
	if err != nil {
		return err
	}
	return r.step("rights, DNS and storage class", func() error {
		for _, manifest := range manifests {
			if err := controlplane.Apply(ctx, client, manifest); err != nil {
				return err
			}
		}
		return defaultClass(ctx, clients)
	})
}
