package admission

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"
)

// configurations are those of plugins, by name.
type configurations map[string]apiserverv1.AdmissionPluginConfiguration

// readConfigurations reads an AdmissionConfiguration. Paths in it are relative to its folder.
func readConfigurations(path string) (configurations, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("unable to read admission control configuration from %q [%w]", path, err)
	}
	obj, err := runtime.Decode(admissionDecoder, data)
	if unversioned(err) && isOfOnePlugin(data) {
		return configurations{"ImagePolicyWebhook": {Path: path}, "PodNodeSelector": {Path: path}}, nil
	}
	if err != nil {
		return nil, err
	}
	file, ok := obj.(*apiserverv1.AdmissionConfiguration)
	if !ok {
		return nil, fmt.Errorf("unexpected type: %T", obj)
	}
	all := make(configurations, len(file.Plugins))
	for _, p := range file.Plugins {
		if p.Path != "" && !filepath.IsAbs(p.Path) {
			p.Path = filepath.Join(filepath.Dir(path), p.Path)
		}
		if _, twice := all[p.Name]; !twice {
			all[p.Name] = p
		}
	}
	return all, nil
}

// admissionDecoder is strict.
var admissionDecoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	utilruntime.Must(apiserverv1.AddToScheme(scheme))
	scheme.AddKnownTypeWithName(schema.GroupVersionKind{Group: apiserverv1.GroupName, Version: "v1alpha1", Kind: "AdmissionConfiguration"}, &apiserverv1.AdmissionConfiguration{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

func unversioned(err error) bool {
	return runtime.IsMissingVersion(err) || runtime.IsMissingKind(err) || runtime.IsNotRegisteredError(err)
}

// isOfOnePlugin reports whether a file is the configuration of one of the two plugins that had files of their own before
// there was an AdmissionConfiguration.
func isOfOnePlugin(data []byte) bool {
	var keys map[string]any
	if yaml.Unmarshal(data, &keys) != nil {
		return false
	}
	_, images := keys["imagePolicy"]
	_, selectors := keys["podNodeSelectorPluginConfig"]
	return images || selectors
}

// of is the configuration of a plugin; nil if there is none.
func (c configurations) of(plugin string) ([]byte, error) {
	p, ok := c[plugin]
	switch {
	case ok && p.Configuration != nil:
		return p.Configuration.Raw, nil
	case ok && p.Path != "":
		data, err := os.ReadFile(p.Path)
		if err != nil {
			return nil, fmt.Errorf("admission plugin configuration: %w", err)
		}
		return data, nil
	}
	return nil, nil
}

// decodeOwn decodes the configuration of a plugin, of a group of its own, into the type of empty.
func decodeOwn[T runtime.Object](data []byte, group string, empty T) (T, error) {
	return decodeAs(data, empty, serializer.DisableStrict, schema.GroupVersionKind{Group: group, Version: "v1alpha1", Kind: "Configuration"})
}

// decodeAs decodes the configuration of a plugin, which is of one of the kinds, into the type of empty.
func decodeAs[T runtime.Object](data []byte, empty T, strictness serializer.CodecFactoryOptionsMutator, kinds ...schema.GroupVersionKind) (T, error) {
	if data == nil {
		return empty, nil
	}
	scheme := runtime.NewScheme()
	for _, kind := range kinds {
		scheme.AddKnownTypeWithName(kind, empty)
	}
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme, strictness).UniversalDeserializer(), data)
	if err != nil {
		return empty, err
	}
	return obj.(T), nil
}
