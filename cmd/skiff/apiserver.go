package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/apiserver/debug"
	"github.com/skiff-k8s/skiff/cluster/keypair"
	"github.com/skiff-k8s/skiff/family"
)

func apiserverCommand() *cobra.Command {
	var options apiserver.Options
	var storage, certFile, keyFile, tokenKeyFile, kubeletCertFile, kubeletKeyFile, proxyCertFile, proxyKeyFile string
	listen := netip.MustParseAddrPort("0.0.0.0:6443")
	advertise := netip.MustParseAddr("127.0.0.1")
	options.ServiceCIDRs = family.MustParse("10.96.0.0/16")
	cmd := &cobra.Command{
		Use:   "apiserver",
		Short: "Run the API server alone",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if options.Log, err = logTo("-", options.Debug.Level); err != nil {
				return err
			}
			serving, err := keypair.Open(certFile, keyFile)
			if err != nil {
				return err
			}
			for _, shown := range []struct {
				to        *func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
				cert, key string
			}{{&options.KubeletClient, kubeletCertFile, kubeletKeyFile}, {&options.FrontProxyClient, proxyCertFile, proxyKeyFile}} {
				if shown.cert == "" {
					continue
				}
				file, err := keypair.Open(shown.cert, shown.key)
				if err != nil {
					return err
				}
				*shown.to = file.Show
			}
			if options.ServiceAccountKey, err = os.ReadFile(tokenKeyFile); err != nil {
				return err
			}
			if options.Backend, err = engines.Open(storage); err != nil {
				return err
			}
			listener, err := net.Listen("tcp", listen.String())
			if err != nil {
				return errors.Join(err, options.Backend.Close())
			}
			options.Advertise = netip.AddrPortFrom(advertise, listen.Port())
			server, err := apiserver.Standard(cmd.Context(), options)
			if err != nil {
				return errors.Join(err, listener.Close(), options.Backend.Close())
			}
			fmt.Fprintln(cmd.OutOrStdout(), "serving on", listen)
			err = server.Serve(cmd.Context(), listener, &tls.Config{GetCertificate: serving.Serve, ClientAuth: tls.RequestClientCert})
			server.Close()
			return errors.Join(err, options.Backend.Close())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&storage, "storage", "file:///var/lib/skiff/skiff.db", storageUsage)
	flags.TextVar(&listen, "listen", listen, "address of the API")
	flags.TextVar(&advertise, "advertise-address", advertise, "where pods and other machines reach the API")
	flags.StringVar(&certFile, "tls-cert-file", "", "certificate of the API")
	flags.StringVar(&keyFile, "tls-private-key-file", "", "its key")
	flags.StringVar(&options.ClientCAFile, "client-ca-file", "", "authorities of the certificates that clients show; read anew when it changes")
	flags.StringVar(&tokenKeyFile, "service-account-signing-key-file", "", "key that signs service account tokens")
	flags.StringVar(&kubeletCertFile, "kubelet-client-certificate", "", "certificate to show to kubelets")
	flags.StringVar(&kubeletKeyFile, "kubelet-client-key", "", "its key")
	flags.StringVar(&options.FrontProxyCAFile, "requestheader-client-ca-file", "", "authorities of proxies that say on whose behalf they ask; none if empty; read anew when it changes")
	flags.StringSliceVar(&options.FrontProxyNames, "requestheader-allowed-names", nil, "names such proxies may have; any if empty")
	flags.StringVar(&proxyCertFile, "proxy-client-cert-file", "", "certificate to show to extension servers")
	flags.StringVar(&proxyKeyFile, "proxy-client-key-file", "", "its key")
	flags.TextVar(&options.ServiceCIDRs, "service-cluster-ip-range", options.ServiceCIDRs, "range of Service addresses, or one of each IP family, the primary one first")
	options.Settings.AddFlags(flags)
	debug.Classify(flags, "storage") // URLs have passwords
	options.Debug.AddVerbosity(flags)
	for _, name := range []string{"tls-cert-file", "tls-private-key-file", "client-ca-file", "service-account-signing-key-file"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is not defined above
		}
	}
	return cmd
}
