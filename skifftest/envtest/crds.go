package envtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// CRDInstallOptions say which definitions of custom resources are installed, and how.
type CRDInstallOptions struct {
	// Scheme says which kinds are converted by a webhook: those of which one version is a hub, and all others can be
	// converted to it and from it. nil: client-go's.
	Scheme *runtime.Scheme
	// Paths are files, or folders of files, with definitions among others.
	Paths []string
	CRDs  []*apiextensionsv1.CustomResourceDefinition
	// ErrorIfPathMissing makes a path that is not there an error; else there is nothing to install from it.
	ErrorIfPathMissing bool
	// MaxTime is how long definitions may take to be served, which is asked every PollInterval; 0 means 10 s and 10 ms.
	MaxTime, PollInterval time.Duration
	// CleanUpAfterUse has Stop delete the definitions.
	CleanUpAfterUse bool
	// WebhookOptions say where the webhook of conversions is.
	WebhookOptions WebhookInstallOptions
}

// InstallCRDs installs definitions, and waits until they are served.
func InstallCRDs(config *rest.Config, o CRDInstallOptions) ([]*apiextensionsv1.CustomResourceDefinition, error) {
	if err := ReadCRDFiles(&o); err != nil {
		return nil, err
	}
	if err := o.convert(); err != nil {
		return nil, err
	}
	if err := CreateCRDs(config, o.CRDs); err != nil {
		return o.CRDs, err
	}
	return o.CRDs, WaitForCRDs(config, o.CRDs, o)
}

// ReadCRDFiles adds to CRDs what is in Paths. Of definitions with one name the last counts.
func ReadCRDFiles(o *CRDInstallOptions) error {
	return manifests(o.Paths, !o.ErrorIfPathMissing, func(kind metav1.TypeMeta, document []byte) error {
		if kind.Kind != "CustomResourceDefinition" || kind.APIVersion != apiextensionsv1.SchemeGroupVersion.String() {
			return nil
		}
		crd := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.Unmarshal(document, crd); err != nil {
			return err
		}
		o.CRDs = slices.DeleteFunc(o.CRDs, func(other *apiextensionsv1.CustomResourceDefinition) bool { return other.Name == crd.Name })
		o.CRDs = append(o.CRDs, crd)
		return nil
	})
}

// convert has kinds that can be converted be converted by the webhook of the suite, and others by none.
func (o *CRDInstallOptions) convert() error {
	hook := &o.WebhookOptions
	if len(hook.LocalServingCAData) == 0 {
		return nil
	}
	at, err := hook.address()
	if err != nil {
		return err
	}
	url := "https://" + at + "/convert"
	for _, crd := range o.CRDs {
		if crd.Spec.PreserveUnknownFields {
			continue
		}
		if !hook.IgnoreSchemeConvertible && !convertible(cmp.Or(o.Scheme, scheme.Scheme), crd.Spec.Group, crd.Spec.Names.Kind) {
			crd.Spec.Conversion = nil
			continue
		}
		crd.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{
			Strategy: apiextensionsv1.WebhookConverter,
			Webhook: &apiextensionsv1.WebhookConversion{
				ConversionReviewVersions: []string{"v1", "v1beta1"},
				ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: &url, CABundle: hook.LocalServingCAData},
			},
		}
	}
	return nil
}

// CreateCRDs creates definitions, or updates those there are. Each becomes what the server has.
func CreateCRDs(config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition) error {
	client, err := clientOf(config, "customresourcedefinitions", apiextensionsv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		if err := client.put(context.Background(), crd); err != nil {
			return fmt.Errorf("install %s: %w", crd.Name, err)
		}
	}
	return nil
}

// WaitForCRDs waits until definitions are served, in all versions that are.
func WaitForCRDs(config *rest.Config, crds []*apiextensionsv1.CustomResourceDefinition, o CRDInstallOptions) error {
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	for _, crd := range crds {
		for _, version := range crd.Spec.Versions {
			if !version.Served {
				continue
			}
			groupVersion := crd.Spec.Group + "/" + version.Name
			if err := o.await(func(context.Context) (bool, error) { return serves(client, groupVersion, crd.Spec.Names.Plural) }); err != nil {
				return fmt.Errorf("wait until %s of %s are served: %w", crd.Spec.Names.Plural, groupVersion, err)
			}
		}
	}
	return nil
}

func (o *CRDInstallOptions) await(done wait.ConditionWithContextFunc) error {
	const interval, most = 10 * time.Millisecond, 10 * time.Second
	return wait.PollUntilContextTimeout(context.Background(), cmp.Or(o.PollInterval, interval), cmp.Or(o.MaxTime, most), true, done)
}

func serves(client discovery.DiscoveryInterface, groupVersion, plural string) (bool, error) {
	list, err := client.ServerResourcesForGroupVersion(groupVersion)
	if apierrors.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == plural }), nil
}

// UninstallCRDs deletes definitions, also those in Paths. Those that are not there need not be deleted.
func UninstallCRDs(config *rest.Config, o CRDInstallOptions) error {
	if err := ReadCRDFiles(&o); err != nil {
		return err
	}
	client, err := clientOf(config, "customresourcedefinitions", apiextensionsv1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	for _, crd := range o.CRDs {
		if err := client.Delete(context.Background(), crd.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
