package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/agent/config"
)

func newValidateCommand() *cobra.Command {
	o := &configOptions{}
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration file and report every mistake at once",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.load(cmd)
			if err != nil {
				return err
			}
			from := plural(len(cfg.Blocks), "block")
			if cfg.Source == config.SourceEtcd {
				from = fmt.Sprintf("blocks from %s in etcd", plural(len(cfg.Pools), "pool"))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid: AS %d, %s, %s\n", o.path, cfg.ASN, plural(len(cfg.Peers), "peer"), from)
			return err
		},
	}
	o.AddFlags(cmd)
	return cmd
}

// configOptions name the configuration file; every scalar key of it is a flag too.
type configOptions struct{ path string }

func (o *configOptions) AddFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&o.path, "config", "c", defaultConfig, "configuration file")
	for key, standard := range config.Keys() {
		fs.String(config.FlagName(key), "", "overrides "+key)
		cmd.Flag(config.FlagName(key)).DefValue = standard
	}
}

func (o *configOptions) load(cmd *cobra.Command) (*config.Config, error) {
	cfg, err := config.Load(o.path, cmd.Flags())
	var mistakes config.Errors
	if errors.As(err, &mistakes) {
		return nil, fmt.Errorf("%s: %s:\n%w", o.path, plural(len(mistakes), "mistake"), err)
	}
	return cfg, err
}

// configFile is a loaded configuration, and how to load it again.
type configFile struct {
	path   string
	config *config.Config
	// reload reads the file again, under the same flags and environment.
	reload func() (*config.Config, error)
	// parse takes text for that of the file.
	parse func(text []byte) (*config.Config, error)
}

func (o *configOptions) open(cmd *cobra.Command) (configFile, error) {
	cfg, err := o.load(cmd)
	if err != nil {
		return configFile{}, err
	}
	return configFile{
		path: o.path, config: cfg,
		reload: func() (*config.Config, error) { return o.load(cmd) },
		parse:  func(text []byte) (*config.Config, error) { return config.Parse(o.path, text, cmd.Flags()) },
	}, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
